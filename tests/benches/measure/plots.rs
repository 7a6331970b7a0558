//! Lines over something that grows, as SVG files.

use std::path::Path;

use plotters::coord::combinators::BindKeyPoints as _;
use plotters::prelude::*;
use system_tests::{Result, fail};

use crate::report::number;

/// Values by something that grows many times over, and so is drawn in proportion to its logarithm.
pub(crate) struct Plot {
    pub(crate) title: &'static str,
    /// What grows.
    pub(crate) across: &'static str,
    /// What is measured.
    pub(crate) up: &'static str,
    pub(crate) lines: Vec<Line>,
}

/// What is measured of one thing.
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) colour: Colour,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Those that people tell apart who see fewer of them (Okabe and Ito, "Color Universal Design", 2008).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Colour {
    Black,
    Blue,
    Vermilion,
    Green,
    Purple,
}

const SIZE: (u32, u32) = (800, 460);

const FONT: &str = "sans-serif";

/// How much higher the frame is than the highest line, so that the names of the lines lie above them.
const ROOM_FOR_NAMES: f64 = 1.5;

impl Plot {
    /// Writes the file.
    pub(crate) fn draw(&self, file: &Path) -> Result {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let mut sizes: Vec<f64> = points().map(|(size, _)| *size).collect();
        sizes.sort_by(f64::total_cmp);
        sizes.dedup();
        let [least, .., most] = sizes[..] else { fail!("there is no line to draw in {:?}", self.title) };
        let highest = points().map(|(_, value)| *value).fold(0.0, f64::max);

        let area = SVGBackend::new(file, SIZE).into_drawing_area();
        // A page may be dark, and what is drawn is not made for that.
        area.fill(&WHITE)?;
        // A little more than there is, so that no point lies on the frame.
        let sizes = (least / 1.1..most * 1.1).log_scale().with_key_points(sizes);
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, (FONT, 25))
            .margin(16)
            .margin_right(48)
            .x_label_area_size(52)
            .y_label_area_size(72)
            .build_cartesian_2d(sizes, 0.0..highest * ROOM_FOR_NAMES)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc(self.across)
            .y_desc(self.up)
            .x_label_formatter(&|size| number(*size))
            .y_label_formatter(&|value| number(*value))
            .label_style((FONT, 18))
            .axis_desc_style((FONT, 19))
            .draw()?;
        for line in &self.lines {
            let (points, colour) = (|| line.points.iter().copied(), line.colour.rgb());
            chart
                .draw_series(LineSeries::new(points(), colour.stroke_width(2)))?
                .label(line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(2)));
            chart.draw_series(points().map(|point| Circle::new(point, 4, colour.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .label_font((FONT, 18))
            .draw()?;
        Ok(area.present()?)
    }
}

impl Colour {
    fn rgb(self) -> RGBColor {
        match self {
            Self::Black => BLACK,
            Self::Blue => RGBColor(0, 114, 178),
            Self::Vermilion => RGBColor(213, 94, 0),
            Self::Green => RGBColor(0, 158, 115),
            Self::Purple => RGBColor(204, 121, 167),
        }
    }
}
