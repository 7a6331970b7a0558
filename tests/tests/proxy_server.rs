//! Two nodes with a reverse proxy between them: nginx, configured as `deploy/nginx.conf` has it.

use std::fs;
use std::path::Path;
use std::process::Command;

use system_tests::{
    Failure, Node, Result, Running, Scene, check, check_equal, free_port, get, query_text, run_to_end, scenario, shell,
};

/// The snippet on other ports, without TLS, as the whole configuration of a server that is no root's.
fn configuration(scene: &Scene, port: u16, node: u16) -> Result<String> {
    let mut text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/nginx.conf"))?;
    for (there, here) in [
        ("127.0.0.1:7420".to_owned(), format!("127.0.0.1:{node}")),
        ("listen 443 ssl;".to_owned(), format!("listen 127.0.0.1:{port};")),
    ] {
        check_equal!(text.matches(&there).count(), 1, "{there}");
        text = text.replace(&there, &here);
    }
    let text: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("ssl_"))
        .fold(String::new(), |text, line| text + line + "\n");
    let folder = scene.path("nginx");
    fs::create_dir_all(&folder)?;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};\n", folder.join(kind).display()))
        .concat();
    let log = folder.join("error.log");
    Ok(format!(
        "daemon off; pid {0}; error_log {1}; events {{}}\nhttp {{ access_log off;\n{temporary}{text}}}\n",
        folder.join("pid").display(),
        log.display()
    ))
}

fn nginx() -> Result<&'static str> {
    let found = ["nginx", "/usr/sbin/nginx"].into_iter().find(|name| Command::new(name).arg("-v").output().is_ok());
    found.ok_or_else(|| Failure::new("there is no nginx here: apt-get install nginx-light"))
}

#[test]
fn peers_meet_through_nginx_and_nobody_else_comes_through() {
    scenario(|scene| {
        let (mut berlin, mut oslo) = (Node::new(scene, "berlin")?, Node::new(scene, "oslo")?);
        for node in [&mut berlin, &mut oslo] {
            shell(&node.database("shop"), "CREATE TABLE item (sku TEXT PRIMARY KEY, qty INTEGER)")?;
        }
        berlin.start()?;
        let port = free_port()?;
        let file = scene.path("nginx.conf");
        fs::write(&file, configuration(scene, port, berlin.port())?)?;
        let mut checked = Command::new(nginx()?);
        run_to_end(checked.args(["-e", "stderr", "-t", "-c"]).arg(&file))?.success()?;
        let mut server = Command::new(nginx()?);
        let server = Running::start(server.args(["-e", "stderr", "-c"]).arg(&file), &scene.path("server"))?;

        oslo.peer_url(&format!("ws://127.0.0.1:{port}/v1/sync"));
        oslo.start()?;
        shell(oslo.file(), "INSERT INTO item VALUES ('A-1', 10)")?;
        shell(berlin.file(), "INSERT INTO item VALUES ('A-2', 4)")?;
        for node in [&berlin, &oslo] {
            scene.eventually("both rows are there", || {
                check_equal!(
                    query_text(node.file(), "SELECT group_concat(sku) FROM (SELECT sku FROM item ORDER BY sku)")?,
                    "A-1,A-2"
                );
                Ok(())
            })?;
        }
        scene.eventually("the proxy answers", || {
            check_equal!(get(port, "/v1/status")?.status, 404);
            Ok(())
        })?;
        check!(get(port, "/")?.status != 200, "the front page comes through");
        oslo.stop()?;
        berlin.stop()?;
        // Its workers end with it.
        server.end_with(system_tests::Signal::Terminate).map(drop)
    });
}
