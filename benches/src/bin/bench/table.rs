//! Columns for people.

/// Rows that are printed with columns as wide as their widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        let header = header.iter().map(|&text| text.to_owned()).collect();
        Self { rows: vec![header] }
    }

    pub(crate) fn row(&mut self, cells: &[String]) {
        self.rows.push(cells.to_vec());
    }

    /// Prints it as Markdown, so that it goes into `docs/benchmarks.md` as it is. Columns without anything are
    /// left out.
    pub(crate) fn print(&self) {
        let count = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let filled = |column: &usize| {
            let mut cells = self.rows.iter().skip(1).filter_map(|row| row.get(*column));
            cells.any(|cell| !cell.is_empty())
        };
        let columns: Vec<usize> = (0..count).filter(filled).collect();
        println!();
        for (number, row) in self.rows.iter().enumerate() {
            let cell = |&column: &usize| {
                let text = row.get(column).map_or("", String::as_str);
                format!(" {text:<width$} |", width = width(column))
            };
            println!("|{}", columns.iter().map(cell).collect::<String>());
            if number == 0 {
                let rule = |&column: &usize| format!("{}|", "-".repeat(width(column) + 2));
                println!("|{}", columns.iter().map(rule).collect::<String>());
            }
        }
        println!();
    }
}
