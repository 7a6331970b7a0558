//! What a changed row costs where there is more of something: rows in the table, databases, peers. The same rows are written at each
//! point of a series, and what all processes compute for them is divided by their number.

mod group;
mod kept;
mod load;

use system_tests::{Result, Scene};

use crate::Options;
use crate::application::Spent;
use crate::plots::{Colour, Line, Plot};
use crate::report::{Figure, Goal, Table, number};
use group::{Cost, Group};
use load::Load;

pub(crate) use kept::Kept;
pub(crate) use load::serve;

/// By how much a row may cost more at the end of a series than at its beginning.
const RISE: f64 = 1.5;

const ALL: &str = "all processes";
const APPLICATION: &str = "application";
const WRITER: &str = "writer's daemon";
const WRITER_EACH: &str = "writer's daemon, per peer";
const PEER: &str = "peer's daemon";
const PEER_EACH: &str = "peers' daemons, per peer";
const PLAIN: &str = "plain SQLite";

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growing {
    Table,
    Databases,
    Peers,
}

/// A point of a series: of each part, microseconds of computing for a changed row.
struct Point {
    size: u64,
    parts: Vec<(&'static str, f64)>,
    /// Rows in a second, until all files hold them.
    rate: f64,
}

/// All series, one after another.
pub(crate) fn measure(scene: &Scene, options: &Options) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for growing in Growing::EACH {
        let mut points = Vec::new();
        for size in growing.sizes(options.rows) {
            eprintln!("  {}", growing.point(size));
            points.push(growing.measure(&scene.room()?, options, size)?);
        }
        figures.extend(points.iter().flat_map(|point| growing.figures(point)));
        figures.extend(growing.rises(&points));
    }
    Ok(figures)
}

/// The plots of all series, and the names of their files.
pub(crate) fn plots(options: &Options, table: &Table) -> Vec<(&'static str, Plot)> {
    Growing::EACH.iter().flat_map(|growing| growing.plots(options.rows, table)).collect()
}

/// Rows of a load. With fewer, the tables of the series would be of one row or none.
fn rows_of_load(rows: u64) -> u64 {
    rows.max(1000)
}

/// Rows that are changed at each point, but for tables that do not have so many.
fn changed(rows: u64) -> u64 {
    rows_of_load(rows) / 10
}

impl Growing {
    const EACH: [Self; 3] = [Self::Table, Self::Databases, Self::Peers];

    /// The points of the series.
    fn sizes(self, rows: u64) -> Vec<u64> {
        let rows = rows_of_load(rows);
        match self {
            Self::Table => vec![rows / 100, rows / 10, rows, 10 * rows],
            Self::Databases => vec![1, 10, 50, 100, 200],
            Self::Peers => vec![1, 2, 4, 8, 16, 32],
        }
    }

    /// The parts of which each point tells.
    fn parts(self) -> &'static [&'static str] {
        match self {
            Self::Table => &[ALL, APPLICATION, WRITER, PEER, PLAIN],
            Self::Databases => &[ALL, APPLICATION, WRITER, PEER],
            Self::Peers => &[APPLICATION, WRITER, WRITER_EACH, PEER_EACH],
        }
    }

    /// What a point is called.
    fn point(self, size: u64) -> String {
        let count = number(float(size));
        match (self, size) {
            (Self::Table, _) => format!("table of {count} rows"),
            (Self::Databases, 1) => "1 database".to_owned(),
            (Self::Databases, _) => format!("{count} databases"),
            (Self::Peers, 1) => "1 peer".to_owned(),
            (Self::Peers, _) => format!("{count} peers"),
        }
    }

    /// What a figure of a point is called.
    fn name(self, size: u64, part: &str) -> String {
        format!("growth: {}, CPU per changed row, {part}", self.point(size))
    }

    fn name_to_plain(self, size: u64) -> String {
        format!("growth: {}, CPU, ratio to plain SQLite", self.point(size))
    }

    fn measure(self, scene: &Scene, options: &Options, size: u64) -> Result<Point> {
        let rows = changed(options.rows);
        match self {
            Self::Table => table(scene, &options.kept, size, rows.min(size)),
            Self::Databases => {
                let cost = inserts(scene, size, 1, rows)?;
                Ok(Point { size, parts: whole(&cost, rows), rate: float(rows) / cost.wall })
            }
            Self::Peers => {
                let cost = inserts(scene, 1, size, rows)?;
                let (each, by_all) = (1e6 / float(rows), 1e6 / float(rows * size));
                let parts = vec![
                    (APPLICATION, cost.application * each),
                    (WRITER, cost.writer * each),
                    (WRITER_EACH, cost.writer * by_all),
                    (PEER_EACH, cost.peers * by_all),
                ];
                Ok(Point { size, parts, rate: float(rows) / cost.wall })
            }
        }
    }

    fn figures(self, point: &Point) -> Vec<Figure> {
        let told = |(part, cost): &(&str, f64)| Figure::told(self.name(point.size, part), *cost, "µs");
        let mut figures: Vec<Figure> = point.parts.iter().map(told).collect();
        if self == Self::Table {
            figures.push(Figure::told(self.name_to_plain(point.size), point.to_plain(), "×"));
        }
        let rate = format!("growth: {}, to all files", self.point(point.size));
        figures.push(Figure::told(rate, point.rate, "rows/s"));
        figures
    }

    /// How much more a row costs at the last point than at the first.
    fn rises(self, points: &[Point]) -> Vec<Figure> {
        let [first, .., last] = points else { return Vec::new() };
        let between = format!("growth: {} to {}", self.point(last.size), self.point(first.size));
        let rise = |part: &str, goal| {
            let name = format!("{between}, CPU per changed row, {part}");
            Figure::new(name, last.part(part) / first.part(part), "×", goal)
        };
        match self {
            // In a large table SQLite itself has more pages to read and to write for as many rows: what is asked is how much more is
            // paid than that.
            Self::Table => {
                let name = format!("{between}, CPU, ratio to plain SQLite");
                let to_plain = last.to_plain() / first.to_plain();
                vec![
                    rise(ALL, Goal::None),
                    rise(PLAIN, Goal::None),
                    Figure::new(name, to_plain, "×", Goal::AtMost(RISE)),
                ]
            }
            Self::Databases => vec![rise(ALL, Goal::AtMost(RISE))],
            Self::Peers => [WRITER_EACH, PEER_EACH].map(|part| rise(part, Goal::AtMost(RISE))).into(),
        }
    }

    fn plots(self, rows: u64, table: &Table) -> Vec<(&'static str, Plot)> {
        let sizes = self.sizes(rows);
        let line = |name: &'static str, figure: &dyn Fn(u64) -> String| {
            let point = |size: &u64| Some((float(*size), table.median(&figure(*size))?));
            Line { name, colour: colour(name), points: sizes.iter().filter_map(point).collect() }
        };
        let (title, across) = match self {
            Self::Table => ("Updates of rows here and there in a table", "rows in the table"),
            Self::Databases => ("Inserts into databases in turn", "databases"),
            Self::Peers => ("Inserts into a database with peers", "peers"),
        };
        // What it computes for all peers together is by their number more than for each, and leaves the other lines no room.
        let parts = self.parts().iter().filter(|part| self != Self::Peers || **part != WRITER);
        let lines = parts.map(|part| line(part, &|size| self.name(size, part))).collect();
        let costs = Plot { title, across, up: "CPU, µs per changed row", lines };
        match self {
            Self::Table => {
                let lines = vec![line(ALL, &|size| self.name_to_plain(size))];
                let to_plain = Plot { title, across, up: "CPU, ratio to plain SQLite", lines };
                vec![("growth-table.svg", costs), ("growth-table-ratio.svg", to_plain)]
            }
            Self::Databases => vec![("growth-databases.svg", costs)],
            Self::Peers => vec![("growth-peers.svg", costs)],
        }
    }
}

/// The same in all plots.
fn colour(part: &str) -> Colour {
    match part {
        APPLICATION => Colour::Blue,
        WRITER | WRITER_EACH => Colour::Vermilion,
        PEER | PEER_EACH => Colour::Green,
        PLAIN => Colour::Purple,
        _ => Colour::Black,
    }
}

impl Point {
    fn part(&self, name: &str) -> f64 {
        self.parts.iter().find(|(part, _)| *part == name).map_or(f64::NAN, |(_, cost)| *cost)
    }

    /// What all processes compute, compared with an application whose file is not synced.
    fn to_plain(&self) -> f64 {
        self.part(ALL) / self.part(PLAIN)
    }
}

/// The parts of a load through one peer.
fn whole(cost: &Cost, rows: u64) -> Vec<(&'static str, f64)> {
    let each = 1e6 / float(rows);
    let Cost { application, writer, peers, .. } = cost;
    vec![
        (ALL, (application + writer + peers) * each),
        (APPLICATION, application * each),
        (WRITER, writer * each),
        (PEER, peers * each),
    ]
}

/// Updates of a column, in a table that both nodes have.
fn table(scene: &Scene, kept: &Kept, size: u64, rows: u64) -> Result<Point> {
    let files = kept.files(size)?;
    let load = |file| Load::Scattered { file, rows: size, changed: rows };

    let plain = scene.path("plain.db");
    kept::copy(&files.plain, &plain)?;
    let alone = Spent::by(&mut load(plain).command()?)?.cpu;

    let mut group = Group::new(scene, 1, 1)?;
    kept::copy(&files.writer, group.writer.file())?;
    kept::copy(&files.peer, group.peers[0].file())?;
    group.start()?;
    group.warm(size + 1)?;
    let cost = group.write(&load(group.writer.file().to_owned()))?;
    group.finish()?;

    let mut parts = whole(&cost, rows);
    parts.push((PLAIN, alone * 1e6 / float(rows)));
    Ok(Point { size, parts, rate: float(rows) / cost.wall })
}

/// New rows in databases that had none.
fn inserts(scene: &Scene, databases: u64, peers: u64, rows: u64) -> Result<Cost> {
    let mut group = Group::new(scene, usize::try_from(databases)?, usize::try_from(peers)?)?;
    group.create()?;
    group.start()?;
    group.warm(1)?;
    let files = group.files(&group.writer);
    // Each transaction of the warming one row took one key.
    let cost = group.write(&Load::InTurn { files, first: databases + 1, rows })?;
    group.finish()?;
    Ok(cost)
}

fn float(count: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "rows are far fewer than 2^52")]
    let float = count as f64;
    float
}
