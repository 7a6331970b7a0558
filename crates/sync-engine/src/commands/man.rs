//! `sync-engine man`: pages of the manual, one for each command. Owns what they look like, not what they say: that is the help.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_mangen::roff::{Roff, roman};

use crate::cli::{Cli, EXAMPLES, Man};
use crate::commands::{print, say};

pub(crate) fn run(arguments: &Man) -> anyhow::Result<ExitCode> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    match &arguments.dir {
        None => print(&page(&command)?),
        Some(folder) => {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot create the folder {}; choose another with --dir", folder.display()))?;
            let written = write(&command, folder)?;
            say(&format!("{written} pages written to {}; read one with: man -l FILE", folder.display()));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Writes the page of a command and those of its subcommands; how many they are.
fn write(command: &Command, folder: &Path) -> anyhow::Result<usize> {
    let file = folder.join(format!("{}.1", name(command)));
    std::fs::write(&file, page(command)?).with_context(|| format!("cannot write {}", file.display()))?;
    let subcommands = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    subcommands.map(|subcommand| write(subcommand, folder)).try_fold(1, |sum, written| Ok(sum + written?))
}

fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn page(command: &Command) -> io::Result<Vec<u8>> {
    let name = name(command);
    let page = clap_mangen::Man::new(command.clone())
        .title(name.to_uppercase())
        .date(DATE)
        .source(format!("sync-engine {}", env!("CARGO_PKG_VERSION")))
        .manual("sync-engine");
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let (notes, examples) = help.split_once(EXAMPLES).unwrap_or((help.as_str(), ""));
    let (examples, more) = examples.split_once("\n\n").unwrap_or((examples, ""));
    paragraphs(notes, &mut text)?;
    paragraphs(more, &mut text)?;
    let mut options = Vec::new();
    page.render_options_section(&mut options)?;
    // A break on either side of a blank line is one too many for mandoc.
    let options = String::from_utf8_lossy(&options).replace("\n.br\n\n.br\n", "\n.sp\n");
    text.extend(options.as_bytes());
    if command.has_subcommands() {
        page.render_subcommands_section(&mut text)?;
    }
    if !examples.is_empty() {
        as_it_stands("EXAMPLES", examples, &mut text)?;
    }
    if !command.is_disable_version_flag_set() && command.get_version().is_some() {
        as_it_stands("FILES", FILES, &mut text)?;
    }
    see_also(command, &mut text)?;
    Ok(text)
}

/// When what the pages say was last gone over. Not the day of the build, so that two builds of one source are alike.
const DATE: &str = "2026-11-29";

/// What the daemon reads and writes, where nothing else is said.
const FILES: &str =
    "/etc/sync-engine/sync-engine.toml    the configuration, unless --config or $SYNC_ENGINE_CONFIG names another
/var/log/sync-engine/                the log, where systemd runs the daemon; else ./logs
/var/lib/sync-engine/                the daemon's own state, where systemd runs it; else ./.sync-engine";

fn paragraphs(text: &str, page: &mut Vec<u8>) -> io::Result<()> {
    for paragraph in text.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty()) {
        let mut roff = Roff::new();
        roff.control("PP", []).text([roman(paragraph)]);
        roff.to_writer(page)?;
    }
    Ok(())
}

/// A section whose lines are not filled.
fn as_it_stands(title: &str, lines: &str, page: &mut Vec<u8>) -> io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", [title]).control("nf", []);
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff.to_writer(page)
}

fn see_also(command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    let page_of = |name: &str| format!("{name}(1)");
    let own = name(command);
    let above = own.rsplit_once('-').map(|(above, _)| above).filter(|above| above.starts_with("sync-engine"));
    let below = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()).map(name);
    let others: Vec<String> = above.into_iter().chain(below).map(page_of).collect();
    if others.is_empty() {
        return Ok(());
    }
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]).text([roman(others.join(", "))]);
    roff.to_writer(page)
}
