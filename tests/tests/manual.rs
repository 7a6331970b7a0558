//! What the binary gives to a shell and to `man`.

use std::process::Command;

use system_tests::{Failure, Node, Result, check, check_equal, run_to_end, scenario};

/// What bash offers for the last of some words.
fn offered(node: &Node, words: &[&str]) -> Result<Vec<String>> {
    let script = node.path("completions");
    std::fs::write(&script, run_to_end(node.command()?.args(["completions", "bash"]))?.success()?)?;
    let (last, before) = words.split_last().ok_or_else(|| Failure::new("no words"))?;
    let ask = format!(
        "source '{}'; set -- $(complete -p sync-engine); while [ \"$1\" != -F ]; do shift; done
         COMP_WORDS=({}); COMP_CWORD={}; \"$2\" sync-engine '{last}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display(),
        words.join(" "),
        words.len() - 1,
        before.last().unwrap_or(&""),
    );
    let mut bash = Command::new("bash");
    let said = run_to_end(bash.args(["--norc", "-c", &ask]))?.success()?;
    let mut offered: Vec<String> = said.lines().map(str::to_owned).collect();
    offered.sort();
    Ok(offered)
}

#[test]
fn bash_completes_commands_options_and_values() {
    scenario(|scene| {
        let node = Node::new(scene, "a")?;
        check_equal!(offered(&node, &["sync-engine", "conf"])?, ["config", "conflicts"]);
        check_equal!(offered(&node, &["sync-engine", "conflicts", "re"])?, ["restore"]);
        check_equal!(offered(&node, &["sync-engine", "run", "--pe"])?, ["--peer"]);
        check_equal!(offered(&node, &["sync-engine", "completions", "z"])?, ["zsh"]);
        Ok(())
    });
}

#[test]
fn each_shell_has_its_script() {
    scenario(|scene| {
        let node = Node::new(scene, "a")?;
        for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
            let script = run_to_end(node.command()?.args(["completions", shell]))?.success()?;
            check!(script.contains("sync-engine") && script.contains("conflicts"), "{shell}: {script}");
        }
        Ok(())
    });
}

#[test]
fn each_command_has_its_page_and_the_examples_are_in_it() {
    scenario(|scene| {
        let node = Node::new(scene, "a")?;
        let folder = node.path("new/man");
        let said = run_to_end(node.command()?.arg("man").arg("--dir").arg(&folder))?.success()?;
        let pages: Vec<_> = std::fs::read_dir(&folder)?.collect::<std::result::Result<_, _>>()?;
        check!(said.starts_with(&format!("{} pages written", pages.len())) && pages.len() > 15, "{said}");
        for page in &pages {
            let text = std::fs::read_to_string(page.path())?;
            for section in [".TH ", ".SH NAME", ".SH SYNOPSIS", ".SH EXAMPLES"] {
                check!(text.contains(section), "{}: no {section}: {text}", page.path().display());
            }
        }
        let first = run_to_end(node.command()?.arg("man"))?.success()?;
        check_equal!(first, std::fs::read_to_string(folder.join("sync-engine.1"))?);
        // Where there is a mandoc it finds nothing to warn of; the gate has one.
        if Command::new("mandoc").arg("-V").output().is_ok() || Command::new("mandoc").output().is_ok() {
            let mut lint = Command::new("mandoc");
            let told =
                run_to_end(lint.args(["-T", "lint", "-W", "warning"]).args(pages.iter().map(std::fs::DirEntry::path)))?;
            check_equal!((told.code, told.stdout.as_str()), (Some(0), ""));
        }
        Ok(())
    });
}
