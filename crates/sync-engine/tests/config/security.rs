//! `[auth]` and `[tls]`: who is let in, and the files that say so.

use std::path::{Path, PathBuf};

use sync_engine::access::Role;
use sync_engine::config::{Environment, Overrides, load_with_access};

use super::{errors, errors_of, load_text, message, settings};

#[test]
fn what_belongs_together_is_asked_for() {
    assert_eq!(errors("[auth]\n[tls]\n[[database]]\n"), ["3:1 database[0].path: Missing"]);
    assert_eq!(errors("tls.key = \"k\"\n"), ["1:11 tls.key: Missing"]);
    assert_eq!(errors("tls.client_ca = \"k\"\n"), ["1:17 tls.client_ca: Missing"]);
    assert_eq!(errors("[[auth.peer]]\nname = \"a\"\ntoken_file = \"t\"\n"), ["3:14 auth.peer[0].token_file: Missing"]);
    assert_eq!(errors("[[auth.peer]]\nrole = \"read\"\n"), ["1:1 auth.peer[0].name: Missing"]);
    let twice = "[[auth.peer]]\nname = \"oslo\"\n[[auth.peer]]\nname = \"oslo\"\n";
    assert_eq!(errors(twice), ["4:8 auth.peer[1].name: Duplicate"]);
    let role = "[[auth.peer]]\nname = \"oslo\"\nrole = \"reed\"\n";
    assert!(message(role).ends_with("did you mean \"read\"?"), "{}", message(role));
    let database =
        "[[auth.peer]]\nname = \"oslo\"\ndatabases = [\"inventroy\"]\n[[database]]\npath = \"inventory.db\"\n";
    assert_eq!(
        message(database),
        "3:14 auth.peer[0].databases[0]: there is no database \"inventroy\"; did you mean \"inventory\"?"
    );
}

#[test]
fn beyond_loopback_somebody_has_to_show_something() {
    let refused = message("listen = \"0.0.0.0:7420\"\n");
    assert!(refused.contains("beyond loopback, is refused") && refused.contains("[auth] token_file"), "{refused}");
    let token = settings("listen = \"0.0.0.0:7420\"\nauth.token_file = \"t\"\n");
    assert_eq!(token.auth.token_file.as_deref(), Some(Path::new("t")));
    let tls = "listen = \"[::]:7420\"\n[tls]\ncertificate = \"c\"\nkey = \"k\"\n";
    assert_eq!(errors(tls), ["1:10 listen: BadValue"], "who encrypts may still be anybody's");
    settings(&format!("{tls}client_ca = \"a\"\n"));
    let overrides = Overrides { token_file: Some("t".into()), ..Overrides::default() };
    let flag = load_text("listen = \"0.0.0.0:7420\"\n", &[], &overrides).unwrap();
    assert_eq!(flag.auth.token_file, Some(PathBuf::from("t")));
}

#[test]
fn roles_and_databases_are_read() {
    let text = "[[auth.peer]]\nname = \"oslo\"\nrole = \"read\"\ndatabases = [\"shop\"]\n[[auth.peer]]\nname = \"rome\"\n\
                [[database]]\nname = \"shop\"\npath = \"shop.db\"\n";
    let auth = settings(text).auth;
    assert_eq!(auth.others, Some(Role::Write));
    let told: Vec<_> = auth.peers.iter().map(|peer| (peer.name.as_str(), peer.role, peer.databases.len())).collect();
    assert_eq!(told, [("oslo", Role::Read, 1), ("rome", Role::Write, 0)]);
    let mutual = "[tls]\ncertificate = \"c\"\nkey = \"k\"\nclient_ca = \"a\"\n";
    assert_eq!(settings(&format!("auth.others = \"refuse\"\n{mutual}")).auth.others, None);
    let certificate = "[auth]\nothers = \"refuse\"\n[[auth.peer]]\nname = \"oslo\"\ncertificate = \"oslo.example\"\n";
    assert_eq!(errors(certificate), ["2:10 auth.others: Missing", "5:15 auth.peer[0].certificate: Missing"]);
}

#[test]
fn files_that_cannot_be_used_are_told_all_at_once_and_their_content_never() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("short"), "hunter2\n").unwrap();
    std::fs::write(path("blank"), "correct horse battery staple\n").unwrap();
    std::fs::write(path("good"), "0123456789abcdef0123456789abcdef\n").unwrap();
    std::fs::write(path("text.pem"), "no certificate\n").unwrap();
    let file = folder.path().join("sync-engine.toml");
    let text = format!(
        "[auth]\ntoken_file = {:?}\npeer_token_file = {:?}\n[[auth.peer]]\nname = \"a\"\ntoken_file = {good:?}\n[[auth.peer]]\n\
         name = \"b\"\ntoken_file = {good:?}\n[[auth.peer]]\nname = \"c\"\ntoken_file = {:?}\n[tls]\ncertificate = {:?}\nkey = {:?}\n",
        path("short"),
        path("absent"),
        path("blank"),
        path("text.pem"),
        path("text.pem"),
        good = path("good"),
    );
    std::fs::write(&file, text).unwrap();
    let outcome = load_with_access(Some(&file), &Overrides::default(), &Environment::new());
    let told = outcome.as_ref().unwrap_err().to_string();
    assert_eq!(
        errors_of(outcome),
        [
            "2:14 auth.token_file: Unreadable",
            "3:19 auth.peer_token_file: Unreadable",
            "9:14 auth.peer[1].token_file: Unreadable",
            "12:14 auth.peer[2].token_file: Unreadable",
            "14:15 tls.certificate: Unreadable",
        ]
    );
    assert!(told.contains("can be guessed") && told.contains("openssl rand -hex 32"), "{told}");
    assert!(!told.contains("hunter2") && !told.contains("horse"), "{told}");
    std::fs::write(&file, format!("auth.token_file = {:?}\n", path("good"))).unwrap();
    let (settings, access) = load_with_access(Some(&file), &Overrides::default(), &Environment::new()).unwrap();
    let shown = format!("{access:?}{settings:?}{}{}", settings.to_toml(), settings.to_json());
    assert!(access.is_closed() && !shown.contains("0123456789abcdef"), "{shown}");
}
