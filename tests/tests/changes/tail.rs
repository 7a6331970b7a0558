//! `sync-engine tail`.

use system_tests::{Node, Running, Signal, check, check_equal, run_to_end, scenario, shell};

use super::until_followed;

#[test]
fn tail_goes_on_when_the_daemon_is_back() {
    scenario(|scene| {
        let mut node = Node::new(scene, "n")?;
        let file = node.database("notes");
        shell(&file, super::SCHEMA)?;
        let nobody = run_to_end(node.command()?.args(["tail", "--url", &node.http_url()]))?;
        check_equal!(nobody.code, Some(1));
        check!(nobody.stderr.contains("start one with: sync-engine run DB"), "{}", nobody.stderr);
        node.start()?;
        let config = node.config_file();
        let mut command = node.command()?;
        command.args(["tail", "--db", "notes", "--table", "note", "--config"]).arg(config);
        let tail = Running::start(&mut command, &scene.path("tail"))?;
        until_followed(scene, &node, 1)?;
        // Cut off before its first event it misses nothing either.
        node.kill()?;
        shell(&file, "INSERT INTO note VALUES ('a', 1, 'x')")?;
        node.start()?;
        let lines = || tail.output().lines().count();
        scene.eventually("it is shown what was written meanwhile", || {
            check_equal!(lines(), 1, "{}", tail.complaints());
            Ok(())
        })?;
        node.stop()?;
        shell(&file, "UPDATE note SET n = 2")?;
        node.start()?;
        scene.eventually("it goes on", || {
            check_equal!(lines(), 2, "{}", tail.complaints());
            Ok(())
        })?;
        let ended = tail.end_with(Signal::Interrupt)?;
        check_equal!(ended.signal, Some(2));
        let events: Vec<serde_json::Value> =
            ended.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        check_equal!((&events[0]["op"], &events[1]["op"]), (&"insert".into(), &"update".into()));
        check!(
            ended.stderr.contains("waiting for the daemon") && ended.stderr.contains("connected again"),
            "{}",
            ended.stderr
        );
        let wrong = run_to_end(node.command()?.args(["tail", "--db", "shop", "--url", &node.http_url()]))?;
        check_equal!(wrong.code, Some(1));
        check!(wrong.stderr.contains("there is no database \"shop\" here, but notes"), "{}", wrong.stderr);
        Ok(())
    });
}
