//! Everything that a user can get wrong on the command line, as a new user would: the exit code tells whose turn it is, and the text
//! says what is wrong, where, and what to do.

use std::path::Path;

use system_tests::{Finished, Node, Result, check, check_equal, run_to_end, scenario, shell};

/// Done; the answer is no; the command line, input or output, the configuration is wrong.
const DONE: i32 = 0;
const NO: i32 = 1;
const COMMAND_LINE: i32 = 2;
const IO: i32 = 74;
const CONFIGURATION: i32 = 78;

/// What is typed, its exit code, and parts of what is said.
type Case = (&'static str, i32, &'static [&'static str]);

/// In a folder with `shop.db`, a database; `junk.db`, which is none; and `folder`.
const CASES: &[Case] = &[
    ("", COMMAND_LINE, &["Usage: sync-engine <COMMAND>", "Examples:"]),
    ("stats", COMMAND_LINE, &["unrecognized subcommand 'stats'", "similar", "'status'"]),
    ("config chek", COMMAND_LINE, &["'chek'", "'check'"]),
    ("conflicts shw 1", COMMAND_LINE, &["'shw'", "'show'"]),
    ("run --nod berlin", COMMAND_LINE, &["'--nod'", "'--node'"]),
    ("completions bsh", COMMAND_LINE, &["'bsh'", "'bash'", "fish"]),
    ("attach", COMMAND_LINE, &["<DB>...", "Usage: sync-engine attach"]),
    ("migrate shop.db", COMMAND_LINE, &["<COMMAND>", "sync-engine migrate <DB> -- <COMMAND>"]),
    ("verify shop.db", COMMAND_LINE, &["<OTHER>"]),
    ("conflicts show", COMMAND_LINE, &["<ID>"]),
    ("conflicts list --state opne", COMMAND_LINE, &["\"opne\" is no state", "did you mean \"open\"?", "dismissed"]),
    ("conflicts list --kind insert_exist", COMMAND_LINE, &["did you mean \"insert_exists\"?", "unique_exists"]),
    ("conflicts list --since soon", COMMAND_LINE, &["\"soon\" is no time", "2026-11-23T10:00:00Z"]),
    ("conflicts list --limit 0", COMMAND_LINE, &["choose from 1 to 1000"]),
    ("status --url foo", COMMAND_LINE, &["\"foo\" is not of the form http://HOST:PORT", "see --help"]),
    ("verify shop --peer foo", COMMAND_LINE, &["\"foo\" is not of the form ws://HOST:PORT"]),
    ("verify shop --peer ws://foo", COMMAND_LINE, &["\"ws://foo\" names no port", "7420"]),
    ("run", CONFIGURATION, &["neither a configuration file nor a database", "sync-engine run inventory.db"]),
    ("run --config none.toml", CONFIGURATION, &["--config", "none.toml does not exist", "./sync-engine.toml"]),
    ("run shop.db --listen foo", CONFIGURATION, &["--listen", "\"foo\" is no address", "127.0.0.1:7420"]),
    ("run shop.db --listen 0.0.0.0:0", CONFIGURATION, &["beyond loopback, is refused", "token"]),
    ("run shop.db --peer foo", CONFIGURATION, &["--peer", "\"foo\" is not a peer's URL", "ws://host:7420"]),
    ("run shop.db --peer http://x", CONFIGURATION, &["the scheme http is neither ws nor wss"]),
    ("run shop.db ./shop.db", CONFIGURATION, &["shop.db", "remove one of the two"]),
    ("attach missing.db", IO, &["cannot find missing.db: No such file", "check the path"]),
    ("attach junk.db", IO, &["cannot open junk.db: file is not a database", "encrypted"]),
    ("attach folder", IO, &["cannot open folder", "check the path"]),
    ("detach missing.db", IO, &["cannot find missing.db"]),
    ("detach shop.db", DONE, &["shop.db: was not attached"]),
    ("verify shop.db missing.db", IO, &["cannot compare shop.db with missing.db", "cannot find missing.db"]),
    ("verify shop.db junk.db", IO, &["junk.db", "not an SQLite database"]),
    ("migrate shop.db -- no-such-command", IO, &["cannot run no-such-command", "No such file"]),
    ("demo --dir shop.db", IO, &["cannot create the folder shop.db", "choose another with --dir"]),
    ("man --dir shop.db", IO, &["cannot create the folder shop.db", "choose another with --dir"]),
];

/// Keys and values of a configuration file, each alone in an otherwise good one.
const SETTINGS: &[(&str, &[&str])] = &[
    ("lisen = \"127.0.0.1:7420\"", &["lisen: there is no such key", "did you mean \"listen\"?"]),
    ("poll_interval = \"soon\"", &["poll_interval", "\"soon\""]),
    ("shutdown_grace = \"1h\"", &["shutdown_grace", "10m"]),
    ("max_batch_rows = 0", &["max_batch_rows", "1000000"]),
    ("node = 7", &["node"]),
    ("node =", &["not valid TOML", "https://toml.io"]),
    ("[log]\nlevel = \"debog\"", &["log.level", "did you mean \"debug\"?"]),
    ("[log]\nformat = \"jsn\"", &["log.format", "json"]),
    ("[[database]]\npath = \"a.db\"\npolicy = \"last-write-win\"", &["policy", "did you mean \"last-write-wins\"?"]),
    ("[[database]]\npath = \"a.db\"\ngranularity = \"cel\"", &["granularity", "column"]),
    ("[[database]]\npath = \"a.db\"\nkey_ranges = 0", &["key_ranges", "4095"]),
    ("[[database]]\nname = \"a\"", &["path"]),
    ("[[database]]\npath = \"a.db\"\n[[database.tabel]]\nname = \"t\"", &["tabel", "did you mean \"table\"?"]),
];

fn is_told(typed: &str, told: &Finished, code: i32, parts: &[&str]) -> Result {
    let text = format!("{}{}", told.stdout, told.stderr);
    check_equal!(told.code, Some(code), "{typed}: {text}");
    for part in parts {
        check!(text.contains(part), "{typed}: {part:?} is not told:\n{text}");
    }
    check!(!text.contains("panicked") && !text.contains("stack backtrace"), "{typed}: {text}");
    Ok(())
}

#[test]
fn what_is_wrong_on_the_command_line_is_told_with_what_to_do() {
    scenario(|scene| {
        let node = Node::new(scene, "a")?;
        shell(&node.path("shop.db"), "CREATE TABLE item (sku TEXT PRIMARY KEY)")?;
        std::fs::write(node.path("junk.db"), "no database, but text ".repeat(100))?;
        std::fs::create_dir(node.path("folder"))?;
        for (typed, code, parts) in CASES {
            let told = run_to_end(node.command()?.args(typed.split_whitespace()))?;
            is_told(typed, &told, *code, parts)?;
        }
        Ok(())
    });
}

#[test]
fn what_is_wrong_in_a_configuration_is_told_with_its_line() {
    scenario(|scene| {
        let node = Node::new(scene, "a")?;
        for (setting, parts) in SETTINGS {
            std::fs::write(node.path("sync-engine.toml"), format!("{setting}\n"))?;
            let told = run_to_end(node.command()?.args(["config", "check"]))?;
            is_told(setting, &told, CONFIGURATION, &[parts, &["sync-engine.toml:"][..]].concat())?;
        }
        Ok(())
    });
}

#[test]
fn where_no_daemon_is_it_is_told_how_to_start_one() {
    scenario(|scene| {
        let node = Node::new(scene, "a")?;
        let url = format!("http://127.0.0.1:{}", node.port());
        for typed in
            ["status", "forget b", "conflicts list", "conflicts show 1", "conflicts restore 1", "conflicts dismiss 1"]
        {
            let told = run_to_end(node.command()?.args(typed.split(' ')).args(["--url", &url]))?;
            is_told(typed, &told, NO, &["no daemon answers at", &url, "sync-engine run DB"])?;
        }
        Ok(())
    });
}

/// What a running daemon is asked and has not.
#[test]
fn what_a_daemon_does_not_have_is_told() {
    scenario(|scene| {
        let mut node = Node::new(scene, "a")?;
        shell(&node.database("shop"), "CREATE TABLE item (sku TEXT PRIMARY KEY)")?;
        node.start()?;
        scene.eventually("the database is attached", || {
            check_equal!(node.database_status("shop")?["state"], "attached");
            Ok(())
        })?;
        let config = node.config_file().display().to_string();
        let cases: &[(&str, &[&str])] = &[
            ("conflicts show shop:7", &["shop:7"]),
            ("conflicts show shp:7", &["shp"]),
            ("conflicts list --database shp", &["shp"]),
            ("forget nobody", &["nobody"]),
            ("verify shp --peer ws://127.0.0.1:9", &["shp"]),
            ("verify shop --peer ws://127.0.0.1:9", &["127.0.0.1:9", "no daemon answers"]),
        ];
        for (typed, parts) in cases {
            let told = run_to_end(node.command()?.args(typed.split(' ')).args(["--config", &config]))?;
            is_told(typed, &told, NO, parts)?;
        }
        let mut second = node.command()?;
        second.args(["run", "--config", &config]).env("SYNC_ENGINE__STATE_DIR", scene.path("other"));
        second.env("SYNC_ENGINE__LOG__DIRECTORY", scene.path("other"));
        let told = run_to_end(&mut second)?;
        is_told("a second daemon", &told, IO, &["cannot listen on", "another program, or another sync-engine"])?;
        node.stop()
    });
}

/// Folders that cannot be written, and a file as the folder's name, as far as root is refused too.
#[test]
fn a_state_folder_or_a_log_that_cannot_be_is_told() {
    scenario(|scene| {
        let node = Node::new(scene, "a")?;
        shell(&node.path("shop.db"), "CREATE TABLE item (sku TEXT PRIMARY KEY)")?;
        let file = node.path("file");
        std::fs::write(&file, "")?;
        let told = |variable: &str, value: &Path| {
            let mut command = node.command()?;
            command.args(["run", "shop.db", "--listen", "127.0.0.1:0"]).env(variable, value);
            run_to_end(&mut command)
        };
        let state = told("SYNC_ENGINE__STATE_DIR", &file)?;
        is_told("state_dir", &state, IO, &["cannot create the state folder", "set state_dir"])?;
        let log = told("SYNC_ENGINE__LOG__DIRECTORY", &file)?;
        is_told("log.directory", &log, IO, &["log", "file"])
    });
}
