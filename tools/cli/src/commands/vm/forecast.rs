//! `shale vm deploy --plan`.

use serde::Serialize;
use shale_hostd::api::{Forecast, ForecastWish, Outcome, Request};
use shale_hvplug::Acceleration;
use shale_model::Reference;

use super::show_stage;
use crate::commands::host::{call, unexpected};
use crate::context::Context;
use crate::output::{Row, bytes, print_one};

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Shown(Forecast);

impl Row for Shown {
    const COLUMNS: &'static [&'static str] =
        &["Template", "Source", "Content", "Boot", "Rate", "Ready"];

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
            boot(forecast),
            match forecast.bytes_per_second {
                Some(rate) => format!("{}/s", bytes(rate as u64)),
                None => "not measured: little or nothing is to be brought".into(),
            },
            ready(forecast),
        ]
    }
}

fn boot(forecast: &Forecast) -> String {
    let Some(boot) = &forecast.boot else {
        return "it is not known what a boot reads".into();
    };
    let of = match boot.template == forecast.template {
        true => String::new(),
        false => format!(" (as boots of {} do)", boot.template.short()),
    };
    let [all, missing] = [boot.stored_bytes, boot.missing_bytes].map(bytes);
    format!("reads {all} as sent{of}, {missing} to come")
}

fn ready(forecast: &Forecast) -> String {
    let Some(ready) = &forecast.ready else {
        return "not known: no such machine of this host has come to its login prompt".into();
    };
    let of = match ready.is_same_template {
        true => "",
        false => ", of another template,",
    };
    let (machine, took) = (&ready.machine, ready.machine_seconds);
    match ready.seconds {
        Some(seconds) => format!("after about {seconds:.1} s; `{machine}`{of} took {took:.1} s"),
        None => format!("not known; `{machine}`{of} took {took:.1} s with all that it read here"),
    }
}

/// Prints what a deployment would take.
pub(super) fn forecast(
    context: &Context,
    reference: &Reference,
    acceleration: Acceleration,
) -> anyhow::Result<()> {
    let request = Request::Forecast(Box::new(ForecastWish {
        reference: reference.to_string(),
        repository: context.repository_of(&[reference])?,
        acceleration,
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
