//! The table and the plot.

use std::fmt::Write as _;

use crate::load::Sample;

/// The medians of a case at one number in flight.
pub struct Row {
    pub name: String,
    pub in_flight: usize,
    pub sample: Sample,
    /// Calls a second as ratios to echo, plain, pgbench and the compared build.
    pub ratios: [Option<f64>; 4],
    pub p50_to_plain: Option<f64>,
    pub memory: f64,
}

/// The median of each number of these samples.
pub fn median_of(samples: &[Sample]) -> Sample {
    let of = |field: fn(&Sample) -> f64| median(samples.iter().map(field).collect());
    Sample {
        rate: of(|s| s.rate),
        p50: of(|s| s.p50),
        p99: of(|s| s.p99),
        p999: of(|s| s.p999),
        server_cpu: of(|s| s.server_cpu),
        postgres_cpu: of(|s| s.postgres_cpu),
    }
}

pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => 0.0,
        n if n % 2 == 1 => numbers[middle],
        _ => f64::midpoint(numbers[middle - 1], numbers[middle]),
    }
}

/// The table as Markdown.
pub fn table(rows: &[Row], head: &str) -> String {
    let mut text = format!("{head}\n\n");
    text.push_str(
        "| call | in flight | calls/s | p50 µs | p99 µs | p99.9 µs | CPU µs, server | CPU µs, \
         PostgreSQL | peak MiB | × echo | × plain | p50 × plain | × pgbench | × compared |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let s = row.sample;
        let ratio = |ratio: Option<f64>| ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let [echo, plain, pgbench, compared] = row.ratios.map(ratio);
        let p50 = ratio(row.p50_to_plain);
        writeln!(
            text,
            "| {} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {echo} | {plain} \
             | {p50} | {pgbench} | {compared} |",
            row.name,
            row.in_flight,
            s.rate,
            s.p50,
            s.p99,
            s.p999,
            s.server_cpu,
            s.postgres_cpu,
            row.memory
        )
        .unwrap();
    }
    text
}

/// Calls a second of each of these cases by the number in flight, both on logarithmic axes.
pub fn plot(rows: &[Row], names: &[&str], title: &str, below: &str) -> String {
    const COLORS: [&str; 6] = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b"];
    let shown = || rows.iter().filter(|row| names.contains(&&*row.name));
    let log = |number: f64| number.max(1.0).log10();
    let most = shown().map(|row| log(row.sample.rate)).fold(0.0, f64::max).ceil();
    let least = shown().map(|row| log(row.sample.rate)).fold(9.0, f64::min).floor();
    let right = shown().map(|row| log(row.in_flight as f64)).fold(0.1, f64::max);
    let x = |n: usize| 70.0 + 420.0 * log(n as f64) / right;
    let y = |rate: f64| 350.0 - 300.0 * (log(rate) - least) / (most - least).max(0.1);
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 780 410\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"780\" height=\"410\" fill=\"white\"/>\n",
    );
    let mut text = |x: f64, y: f64, anchor: &str, color: &str, text: &str| {
        writeln!(
            svg,
            "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\" fill=\"{color}\">{text}</text>"
        )
        .unwrap();
    };
    text(70.0, 25.0, "start", "black", title);
    text(280.0, 395.0, "middle", "black", below);
    let mut decade = least;
    let mut lines = String::new();
    while decade <= most {
        let rate = 10f64.powf(decade);
        text(62.0, y(rate) + 4.0, "end", "black", &format!("{rate:.0}"));
        writeln!(lines, "<path d=\"M70 {0:.1}H490\" stroke=\"#ddd\"/>", y(rate)).unwrap();
        decade += 1.0;
    }
    let mut levels: Vec<_> = shown().map(|row| row.in_flight).collect();
    levels.sort_unstable();
    levels.dedup();
    for level in levels {
        text(x(level), 370.0, "middle", "black", &level.to_string());
    }
    for (name, color) in names.iter().zip(COLORS) {
        let points: Vec<_> = shown().filter(|row| row.name == *name).collect();
        let Some(end) = points.last() else { continue };
        let line: Vec<_> = points
            .iter()
            .map(|row| format!("{:.1},{:.1}", x(row.in_flight), y(row.sample.rate)))
            .collect();
        writeln!(
            lines,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
            line.join(" ")
        )
        .unwrap();
        text(500.0, y(end.sample.rate) + 4.0, "start", color, name);
    }
    svg + &lines + "</svg>\n"
}
