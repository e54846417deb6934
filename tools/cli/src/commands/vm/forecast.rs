//! `shale vm deploy --plan`.

use serde::Serialize;
use shale_hostd::api::{
    BootForecast, Forecast, ForecastWish, MachineWish, Outcome, ReadyForecast, Request,
    WarmForecast,
};
use shale_model::{Reference, TemplateId};

use super::show_stage;
use crate::commands::host::{call, unexpected};
use crate::context::Context;
use crate::output::{Row, bytes, print_one};

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Shown(Forecast);

impl Row for Shown {
    const COLUMNS: &'static [&'static str] = &[
        "Template", "Source", "Content", "Boot", "Rate", "Ready", "Warm",
    ];

    fn cells(&self) -> Vec<String> {
        let forecast = &self.0;
        vec![
            format!("{} {}", forecast.reference, forecast.template.short()),
            forecast.source.clone(),
            format!(
                "{}, {} of it here",
                bytes(forecast.content_bytes),
                bytes(forecast.local_bytes)
            ),
            match &forecast.boot {
                Some(boot) => read(boot, forecast.template),
                None => "it is not known what a boot reads".into(),
            },
            match forecast.bytes_per_second {
                Some(rate) => format!("{}/s", bytes(rate as u64)),
                None => "not measured: little or nothing is to be brought".into(),
            },
            match &forecast.ready {
                Some(like) => ready(like, "template"),
                None => {
                    "not known: no such machine of this host has come to its login prompt".into()
                }
            },
            warm(&forecast.warm),
        ]
    }
}

/// What is read until the login prompt.
fn read(boot: &BootForecast, template: TemplateId) -> String {
    let of = match boot.template == template {
        true => String::new(),
        false => format!(" (as boots of {} do)", boot.template.short()),
    };
    let [all, missing] = [boot.stored_bytes, boot.missing_bytes].map(bytes);
    format!("reads {all} as sent{of}, {missing} to come")
}

fn ready(ready: &ReadyForecast, of: &str) -> String {
    let of = match ready.is_same_template {
        true => String::new(),
        false => format!(", of another {of},"),
    };
    let (machine, took) = (&ready.machine, ready.machine_seconds);
    match ready.seconds {
        Some(seconds) => format!("after about {seconds:.1} s; `{machine}`{of} took {took:.1} s"),
        None => format!("not known; `{machine}`{of} took {took:.1} s with all that it read here"),
    }
}

fn warm(warm: &WarmForecast) -> String {
    match warm {
        WarmForecast::Cold { reason } => format!("no, it would boot: {reason}"),
        WarmForecast::From {
            snapshot,
            content_bytes,
            local_bytes,
            boot,
            ready: like,
            ..
        } => {
            let [all, here] = [*content_bytes, *local_bytes].map(bytes);
            let read = boot.as_ref().map(|boot| read(boot, *snapshot));
            let read = read.unwrap_or_else(|| "it is not known what a start reads".into());
            let ready = like.as_ref().map(|like| ready(like, "snapshot"));
            let ready =
                ready.unwrap_or_else(|| "not known: no machine of this host began so".into());
            let snapshot = snapshot.short();
            format!("with --warm, from {snapshot}: {all}, {here} of it here; {read}; ready {ready}")
        }
    }
}

/// Prints what a deployment would take.
pub(super) fn forecast(
    context: &Context,
    reference: &Reference,
    machine: MachineWish,
) -> anyhow::Result<()> {
    let request = Request::Forecast(Box::new(ForecastWish {
        reference: reference.to_string(),
        repository: context.repository_of(&[reference])?,
        machine,
    }));
    match call(context, request, show_stage(context))? {
        Outcome::Forecast(forecast) => print_one(
            &Shown(*forecast),
            context.global.format,
            context.global.quiet,
        ),
        other => Err(unexpected(&other)),
    }
}
