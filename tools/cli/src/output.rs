//! Tables for people, JSON for programs. Data goes to standard output, all else to standard error.

use std::io;

use clap::ValueEnum;
use serde::Serialize;
use time::OffsetDateTime;

/// Prints a line of data on standard output; an `io::Result`, because whoever reads may be gone.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stdout(), $($text)*)
    }};
}

/// Prints a line for people on standard error. One that cannot be printed is no reason to fail.
macro_rules! note {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

pub(crate) use {note, say};

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// JSON; its fields are a stable interface.
    Json,
}

/// Something that is printed as a row or as an object.
pub(crate) trait Row: Serialize {
    /// Names of the columns.
    const COLUMNS: &'static [&'static str];

    /// One cell for each column; the first is what `--quiet` prints.
    fn cells(&self) -> Vec<String>;
}

/// Prints a list.
pub(crate) fn print_list<R: Row>(rows: &[R], format: Format, quiet: bool) -> anyhow::Result<()> {
    if quiet {
        for row in rows {
            say!("{}", row.cells()[0])?;
        }
        return Ok(());
    }
    match format {
        Format::Json => say!("{}", serde_json::to_string_pretty(rows)?)?,
        Format::Table => print_table(R::COLUMNS, rows.iter().map(Row::cells).collect())?,
    }
    Ok(())
}

/// Prints one object: a column of fields for people.
pub(crate) fn print_one<R: Row>(row: &R, format: Format, quiet: bool) -> anyhow::Result<()> {
    let cells = row.cells();
    match format {
        _ if quiet => say!("{}", cells[0])?,
        Format::Json => say!("{}", serde_json::to_string_pretty(row)?)?,
        Format::Table => {
            let names = R::COLUMNS
                .iter()
                .map(|name| format!("{}:", name.to_lowercase()));
            let rows = names.zip(cells).map(|(name, cell)| vec![name, cell]);
            print_columns(rows.collect())?;
        }
    }
    Ok(())
}

fn print_table(columns: &[&str], rows: Vec<Vec<String>>) -> io::Result<()> {
    let mut all = vec![columns.iter().map(|name| (*name).to_owned()).collect()];
    all.extend(rows);
    print_columns(all)
}

fn print_columns(rows: Vec<Vec<String>>) -> io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        say!("{}", line.join("  ").trim_end())?;
    }
    Ok(())
}

/// A number of bytes for people: three digits and a binary unit.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ if value < 10.0 => format!("{value:.2} {}", UNITS[unit]),
        _ if value < 100.0 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// A time, given in seconds since 1970, for people: `2026-11-25 14:22:51 UTC`.
pub(crate) fn utc(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok();
    match time.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()) {
        Some(time) => {
            let (hour, minute, second) = time.to_hms();
            format!("{} {hour:02}:{minute:02}:{second:02} UTC", time.date())
        }
        None => format!("{seconds} s after 1970"),
    }
}

/// The number of bytes that a person wrote: `512M`, `2G`, `10GiB`, `4096`.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text[digits.len()..]
        .trim_end_matches("iB")
        .trim_end_matches('B');
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(format!("`{text}` has no unit of K, M, G, T")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("`{text}` is not a size"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("`{text}` is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, value) in [
            ("4096", 4096),
            ("512M", 512 << 20),
            ("2GiB", 2 << 30),
            ("1T", 1 << 40),
            ("7KB", 7168),
        ] {
            assert_eq!(parse_bytes(text), Ok(value));
        }
        for text in ["", "M", "1X", "-1", "99999999999T"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        let time = 1_764_080_571;
        assert_eq!(utc(time), "2025-11-25 14:22:51 UTC");
        let shown = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (366 << 20, "366 MiB"),
            (5 << 40, "5.00 TiB"),
        ];
        for (count, text) in shown {
            assert_eq!(bytes(count), text);
        }
    }
}
