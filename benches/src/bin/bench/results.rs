//! The results: Markdown tables and a picture.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use charts_rs::{Align, ChildChart, Color, HorizontalBarChart, MultiChart, Series};

use crate::measure::{Contender, Figures, Starts, VIA_QUEUE};

type Figure = fn(&Starts) -> &[f64];

const FIGURES: [(&str, Figure); 6] = [
    ("cold start, to the first response (ms)", |starts| &starts.cold),
    ("start to ready for the first event (ms)", |starts| &starts.ready),
    ("warm sign-in (ms)", |starts| &starts.warm),
    ("processor time of a cold start (ms)", |starts| &starts.cold_cpu),
    ("processor time of a warm sign-in (ms)", |starts| &starts.warm_cpu),
    ("peak memory (MiB)", |starts| &starts.peak_mib),
];

/// Sizes of a binary and of its zip, in bytes.
pub struct Sizes {
    binary: u64,
    zip: u64,
}

impl Sizes {
    pub fn of(binary: &str, zip: &str) -> Self {
        let size = |file| fs::metadata(file).expect("a file that was built").len();
        Self { binary: size(binary), zip: size(zip) }
    }
}

/// Prints the tables, and writes `results.svg` into `directory`.
pub fn write(contenders: &[Contender], node: &str, figures: &Figures, sizes: &[Sizes; 2], directory: &Path) {
    fs::write(directory.join("results.svg"), picture(contenders, figures)).expect("results.svg can be written");
    println!(
        "Node.js is {node}. Medians, with the 10th and 90th percentile in brackets. The functions took turns.\n\n\
         ### Against the goals\n\n{}\n### At full speed\n\n{}\n{}\n{}### While UserHub is slow\n\n{}",
        goals(figures, sizes),
        starts_table(contenders, &figures.full_speed),
        beside(figures, sizes),
        limited(contenders, figures),
        latencies(contenders, figures),
    );
}

fn goals(figures: &Figures, sizes: &[Sizes; 2]) -> String {
    let (ours, floor, node) = (figures.full_speed.first(), figures.full_speed.get(1), figures.full_speed.get(2));
    let limited = figures.limited.iter().find(|(name, _)| *name == "128 MB").map(|(_, starts)| starts);
    let (limited_ours, limited_node) = (limited.and_then(|all| all.first()), limited.and_then(|all| all.get(2)));
    let ratio = |more: Option<&Starts>, less: Option<&Starts>, figure: Figure| {
        Some(median(figure(more?)) / median(figure(less?)))
    };
    let [(_, cold), _, (_, warm), _, _, (_, memory)] = FIGURES;
    let via_queue = figures.latencies.first().and_then(|(_, all)| Some(median(all.last()?) / median(all.first()?)));
    let post = ours.map(|ours| median(&ours.warm) / median(&figures.post));
    let rows = [
        ("cold start, times faster than Node.js", "at least", 25.0, ratio(node, ours, cold)),
        ("the same with 128 MB", "at least", 45.0, ratio(limited_node, limited_ours, cold)),
        ("cold start, times the floor's", "at most", 1.5, ratio(ours, floor, cold)),
        ("warm sign-in, times faster than Node.js", "at least", 3.0, ratio(node, ours, warm)),
        ("the same with 128 MB", "at least", 100.0, ratio(limited_node, limited_ours, warm)),
        ("warm sign-in, times a bare POST by the same HTTP client", "at most", 1.15, post),
        ("peak memory, times the floor's", "at most", 1.5, ratio(ours, floor, memory)),
        ("peak memory, times less than Node.js", "at least", 15.0, ratio(node, ours, memory)),
        ("warm sign-in through the queue, times a direct one", "at most", 1.3, via_queue),
        ("zip (MB)", "at most", 1.42, Some(sizes[0].zip as f64 / 1e6)),
    ];
    let rows = rows.map(|(what, bound, goal, measured)| {
        let met = measured.map(|measured| if bound == "at most" { measured <= goal } else { measured >= goal });
        let verdict = match met {
            Some(true) => "met",
            Some(false) => "missed",
            None => "not measured here",
        };
        vec![what.to_owned(), format!("{bound} {goal}"), measured.map_or("–".to_owned(), number), verdict.to_owned()]
    });
    table(&["", "goal", "measured", ""], &rows)
}

/// The sizes of the files, and what a bare POST and UserHub's part take.
fn beside(figures: &Figures, [ours, floor]: &[Sizes; 2]) -> String {
    let bytes = |what: &str, size: fn(&Sizes) -> u64| {
        let mb = |sizes| format!("{:.3}", size(sizes) as f64 / 1e6);
        vec![what.to_owned(), mb(ours), mb(floor)]
    };
    let sizes = [bytes("binary (MB)", |sizes| sizes.binary), bytes("zip (MB)", |sizes| sizes.zip)];
    let [of_ours, of_floor] = [0, 1].map(|place: usize| median(&figures.full_speed[place].warm));
    format!(
        "{}\nA bare keep-alive POST by the same HTTP client takes {} ms. Our warm sign-in takes {} times as long as the \
         floor's and a bare POST together. UserHub's part of the TLS handshake takes {} ms of each cold start except the \
         floor's.\n",
        table(&["", "ours", "floor"], &sizes),
        spread(&figures.post),
        number(of_ours / (of_floor + median(&figures.post))),
        spread(&figures.handshakes),
    )
}

fn limited(contenders: &[Contender], figures: &Figures) -> String {
    figures.limited.iter().fold(String::new(), |mut text, (memory, starts)| {
        write!(
            text,
            "### With the processor time that Lambda gives {memory}\n\nLinux enforces a limit when its clock ticks, about \
             every 4 ms. A function that finishes earlier is not slowed down.\n\n"
        )
        .expect("memory");
        writeln!(text, "{}", starts_table(contenders, starts)).expect("memory");
        text
    })
}

fn starts_table(contenders: &[Contender], starts: &[Starts]) -> String {
    let rows = FIGURES.map(|(what, figure)| {
        std::iter::once(what.to_owned()).chain(starts.iter().map(|starts| spread(figure(starts)))).collect()
    });
    table(&head(contenders), &rows)
}

fn latencies(contenders: &[Contender], figures: &Figures) -> String {
    let rows: Vec<Vec<String>> = figures
        .latencies
        .iter()
        .map(|(latency, all)| {
            let what = format!("warm sign-in, UserHub answers after {latency} ms (ms)");
            std::iter::once(what).chain(all.iter().map(|times| spread(times))).collect()
        })
        .collect();
    let mut head = head(contenders);
    head.push(VIA_QUEUE);
    table(&head, &rows)
}

fn head(contenders: &[Contender]) -> Vec<&'static str> {
    std::iter::once("").chain(contenders.iter().map(|contender| contender.name)).collect()
}

fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[&str]| format!("| {} |\n", cells.join(" | "));
    let rows = rows.iter().map(|row| line(&row.iter().map(String::as_str).collect::<Vec<_>>()));
    let rule = vec!["---"; head.len()];
    [line(head), line(&rule)].into_iter().chain(rows).collect()
}

fn spread(values: &[f64]) -> String {
    let [low, middle, high] = [10, 50, 90].map(|percent| number(percentile(values, percent)));
    format!("{middle} ({low}–{high})")
}

fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}

fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) * percent / 100]
}

/// Three digits, or all digits before the decimal point if there are more.
fn number(value: f64) -> String {
    let decimals = match value {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

const PANEL: (f32, f32) = (380.0, 130.0);

/// Bars for the medians that users notice.
fn picture(contenders: &[Contender], figures: &Figures) -> String {
    let [(_, cold), _, (_, warm), _, _, (_, memory)] = FIGURES;
    let mut panels = vec![("Cold start, to the first response", "ms", &figures.full_speed, cold)];
    if let Some((_, starts)) = figures.limited.iter().find(|(name, _)| *name == "128 MB") {
        panels.push(("Cold start with 128 MB in Lambda", "ms", starts, cold));
        panels.push(("Warm sign-in with 128 MB in Lambda", "ms", starts, warm));
    }
    panels.push(("Peak memory", "MiB", &figures.full_speed, memory));

    let mut picture = MultiChart::new();
    picture.background_color = Some(Color::white());
    for (place, (title, unit, starts, figure)) in panels.into_iter().enumerate() {
        let medians: Vec<f64> = starts.iter().map(|starts| median(figure(starts))).collect();
        let label = |(contender, value): (&Contender, &f64)| format!("{}: {} {unit}  ", contender.name, number(*value));
        let labels = contenders.iter().zip(&medians).map(label).rev(); // the chart begins at the bottom
        let values = medians.iter().map(|value| *value as f32).rev().collect();
        let mut chart = HorizontalBarChart::new(vec![Series::new(title.to_owned(), values)], labels.collect());
        (chart.width, chart.height) = PANEL;
        title.clone_into(&mut chart.title.text);
        chart.title.align = Align::Left;
        chart.title.font.size = 13.0;
        chart.legend.show = Some(false);
        chart.x_axis.hidden = true;
        chart.grid.stroke_width = 0.0;
        chart.margin = (10.0).into();
        let position = ((place % 2) as f32 * PANEL.0, (place / 2) as f32 * PANEL.1);
        picture.charts.push(ChildChart::HorizontalBar(chart, Some(position)));
    }
    picture.svg().expect("an SVG image") + "\n"
}
