//! Contenders that run in turns, so that a machine that is busy for a while is busy for all of them.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::table::Table;

/// One run of a contender.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    /// What is compared: seconds, most often.
    pub(crate) value: f64,
    /// Bytes that the run left behind, where that is compared too.
    pub(crate) bytes: Option<u64>,
    /// Seconds that processors worked for it, where it is a program: what a busy machine changes little.
    pub(crate) cpu: Option<f64>,
}

impl Sample {
    /// A value alone.
    pub(crate) fn of(value: f64) -> Self {
        Self {
            value,
            ..Self::default()
        }
    }
}

/// Something that is run again and again.
pub(crate) struct Contender<'a> {
    name: String,
    run: Box<dyn FnMut() -> Result<Sample> + 'a>,
    samples: Vec<Sample>,
}

impl<'a> Contender<'a> {
    pub(crate) fn new(name: impl Into<String>, run: impl FnMut() -> Result<Sample> + 'a) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
            samples: Vec::new(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs it once without counting that.
    pub(crate) fn warm_up(&mut self) -> Result<()> {
        (self.run)().map(drop)
    }

    /// The middle value.
    pub(crate) fn median(&self) -> f64 {
        median(&self.values())
    }

    /// The largest value.
    pub(crate) fn most(&self) -> f64 {
        self.values().into_iter().fold(f64::NAN, f64::max)
    }

    /// The median of this one's values in ratio to the other's of the same turn.
    pub(crate) fn ratio_to(&self, other: &Contender<'_>) -> f64 {
        median(&self.ratios_to(other))
    }

    /// How much larger this one's result is; not a number where there is none.
    pub(crate) fn size_ratio_to(&self, other: &Contender<'_>) -> f64 {
        let bytes =
            |contender: &Contender<'_>| contender.samples.last().and_then(|sample| sample.bytes);
        let sizes = bytes(self).zip(bytes(other));
        sizes.map_or(f64::NAN, |(this, other)| this as f64 / other as f64)
    }

    /// This one's values less the other's of the same turn.
    pub(crate) fn differences_to(&self, other: &Contender<'_>) -> Vec<f64> {
        let pairs = self.values().into_iter().zip(other.values());
        pairs.map(|(this, other)| this - other).collect()
    }

    fn ratios_to(&self, other: &Contender<'_>) -> Vec<f64> {
        let pairs = self.values().into_iter().zip(other.values());
        pairs.map(|(this, other)| this / other).collect()
    }

    pub(crate) fn values(&self) -> Vec<f64> {
        self.samples.iter().map(|sample| sample.value).collect()
    }
}

/// Runs every contender `runs` times, in turns.
pub(crate) fn in_turns(runs: u32, contenders: &mut [Contender<'_>]) -> Result<()> {
    for run in 1..=runs {
        for contender in &mut *contenders {
            let sample =
                (contender.run)().with_context(|| format!("{}, run {run}", contender.name))?;
            contender.samples.push(sample);
        }
    }
    Ok(())
}

/// Seconds that `work` takes.
pub(crate) fn seconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Clock ticks of `/proc`, which is the same on every Linux that we know.
const TICKS_A_SECOND: f64 = 100.0;

/// Seconds that processors worked for this program.
pub(crate) fn own_cpu() -> Result<f64> {
    cpu(11)
}

/// Seconds that processors worked for all programs that this one has started and waited for.
pub(crate) fn children_cpu() -> Result<f64> {
    cpu(13)
}

/// Two times of `/proc/self/stat`, in user space and in the kernel, after so many fields behind the name.
fn cpu(skip: usize) -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("read /proc/self/stat")?;
    // The second field is a name that may hold anything.
    let (_, fields) = stat
        .rsplit_once(')')
        .context("/proc/self/stat has a name")?;
    let times = fields.split_whitespace().skip(skip).take(2);
    let ticks: f64 = times.filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS_A_SECOND)
}

/// Prints the median and the range of things that are no rivals.
pub(crate) fn print_alone(unit: &str, measured: &[Contender<'_>]) {
    let mut table = Table::new(&["", unit, "range", "runs"]);
    for contender in measured {
        let values = contender.values();
        let median = format!("{:.3}", median(&values));
        let runs = values.len().to_string();
        table.row(&[contender.name.clone(), median, range(&values), runs]);
    }
    table.print();
}

/// Prints the contenders: the median and the range of their values in `unit`, and of the ratios of the first
/// one's values to theirs, run by run.
pub(crate) fn print(unit: &str, contenders: &[Contender<'_>]) {
    let mut table = Table::new(&[
        "",
        unit,
        "range",
        "ours / this",
        "range",
        "CPU s",
        "MB",
        "ours / this",
    ]);
    let Some(ours) = contenders.first() else {
        return;
    };
    for (number, contender) in contenders.iter().enumerate() {
        let values = contender.values();
        let ratios = ours.ratios_to(contender);
        let cpus: Vec<f64> = contender
            .samples
            .iter()
            .filter_map(|sample| sample.cpu)
            .collect();
        let cpu = Some(median(&cpus)).filter(|cpu| cpu.is_finite());
        let size = contender.samples.last().and_then(|sample| sample.bytes);
        let size_ratio = Some(ours.size_ratio_to(contender)).filter(|ratio| ratio.is_finite());
        let of_peer = |text: String| if number == 0 { String::new() } else { text };
        table.row(&[
            contender.name.clone(),
            format!("{:.3}", median(&values)),
            range(&values),
            of_peer(format!("{:.2}", median(&ratios))),
            of_peer(range(&ratios)),
            cpu.map_or(String::new(), |cpu| format!("{cpu:.2}")),
            size.map_or(String::new(), |size| format!("{:.1}", size as f64 / 1e6)),
            of_peer(size_ratio.map_or(String::new(), |ratio| format!("{ratio:.3}"))),
        ]);
    }
    table.print();
}

/// The middle value; the mean of the two middle ones where their number is even.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// The median, and the range where there are several values, with so many digits behind the point.
pub(crate) fn spread(values: &[f64], digits: usize) -> String {
    let median = median(values);
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match values {
        [_] => format!("{median:.digits$}"),
        _ => format!("{median:.digits$} ({least:.digits$} to {most:.digits$})"),
    }
}

fn range(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{least:.2} to {most:.2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn contenders_take_turns() {
        let order = std::cell::RefCell::new(String::new());
        let contender = |letter: char| {
            let order = &order;
            Contender::new(letter, move || {
                order.borrow_mut().push(letter);
                Ok(Sample::default())
            })
        };
        in_turns(2, &mut [contender('a'), contender('b')]).unwrap();
        assert_eq!(order.into_inner(), "abab");
    }
}
