//! `sync-engine tls`: the authority of a private cluster, and the certificates of its nodes.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use serde_json::json;

use crate::cli::{Tls, TlsCa, TlsNode};
use crate::commands::say;

/// By how much a certificate is valid before it is made: clocks differ.
const BEFORE: Duration = Duration::from_secs(3_600);

/// Makes what is asked for. Files that are there are never overwritten.
pub(crate) fn run(command: &Tls) -> anyhow::Result<ExitCode> {
    match command {
        Tls::Ca(arguments) => authority(arguments)?,
        Tls::Node(arguments) => node(arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn authority(arguments: &TlsCa) -> anyhow::Result<()> {
    let TlsCa { dir, cluster, days, json } = arguments;
    let (certificate_file, key_file) = (dir.join("ca.pem"), dir.join("ca.key"));
    must_not_exist(&[&certificate_file, &key_file])?;
    let mut params = params(*days);
    params.distinguished_name.push(DnType::CommonName, format!("sync-engine cluster {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().context("cannot make a key")?;
    let certificate = params.self_signed(&key).context("cannot make the certificate")?;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create the folder {}", dir.display()))?;
    write(&key_file, &key.serialize_pem(), 0o600)?;
    write(&certificate_file, &certificate.pem(), 0o644)?;
    if *json {
        say(&json!({ "certificate": certificate_file, "key": key_file, "days": days }).to_string());
        return Ok(());
    }
    say(&format!("{}: the certificate of the authority; every node has a copy", certificate_file.display()));
    say(&format!("{}: its key, which signs; keep it, and copy it nowhere", key_file.display()));
    say(&format!("Next, for each node: sync-engine tls node NAME --dir {} --host HOST", dir.display()));
    Ok(())
}

fn node(arguments: &TlsNode) -> anyhow::Result<()> {
    let TlsNode { node, dir, hosts, days, json } = arguments;
    if node.is_empty() || node.contains(['/', '*']) || node == "ca" {
        bail!("{node:?} cannot be in a certificate; use letters, digits, hyphens and dots");
    }
    let (certificate_file, key_file) = (dir.join(format!("{node}.pem")), dir.join(format!("{node}.key")));
    must_not_exist(&[&certificate_file, &key_file])?;
    let issuer = issuer(dir)?;
    let mut params = params(*days);
    let names: Vec<&str> = std::iter::once(node.as_str()).chain(hosts.iter().map(String::as_str)).collect();
    for host in &names {
        params.subject_alt_names.push(name(host)?);
    }
    params.distinguished_name.push(DnType::CommonName, node.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().context("cannot make a key")?;
    let certificate = params.signed_by(&key, &issuer).context("cannot sign the certificate")?;
    write(&key_file, &key.serialize_pem(), 0o600)?;
    write(&certificate_file, &certificate.pem(), 0o644)?;
    if *json {
        say(&json!({ "certificate": certificate_file, "key": key_file, "names": names, "days": days }).to_string());
        return Ok(());
    }
    say(&format!("{} and {}: for node {node}, valid for {days} days", certificate_file.display(), key_file.display()));
    say("Copy both and ca.pem to that node, and write into its configuration:\n");
    say("[tls]");
    for (key, file) in [("certificate", format!("{node}.pem")), ("key", format!("{node}.key"))] {
        say(&format!("{key} = \"/etc/sync-engine/{file}\""));
    }
    say("client_ca = \"/etc/sync-engine/ca.pem\"   # peers have to show a certificate of this authority");
    Ok(())
}

/// What all certificates have in common.
fn params(days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let at = |since: Duration| date_time_ymd(1970, 1, 1) + since;
    params.not_before = at(now.saturating_sub(BEFORE));
    params.not_after = at(now + Duration::from_secs(u64::from(days) * 86_400));
    params
}

/// A name or an address that a certificate is for.
fn name(host: &str) -> anyhow::Result<SanType> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let labels = host.split('.');
    let fits = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        inner && !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-')
    };
    if !labels.clone().all(fits) || host.len() > 253 {
        bail!("{host:?} cannot be in a certificate; use a DNS name (letters, digits, hyphens and dots) or an address");
    }
    Ok(SanType::DnsName(host.try_into().with_context(|| format!("{host:?} cannot be in a certificate"))?))
}

fn issuer(dir: &Path) -> anyhow::Result<Issuer<'static, KeyPair>> {
    let read = |name: &str| {
        let file = dir.join(name);
        std::fs::read_to_string(&file).with_context(|| {
            format!(
                "cannot read {}; make the authority with: sync-engine tls ca --dir {}, or name its folder with --dir",
                file.display(),
                dir.display()
            )
        })
    };
    let (certificate, key) = (read("ca.pem")?, read("ca.key")?);
    let key =
        KeyPair::from_pem(&key).with_context(|| format!("{} holds no private key", dir.join("ca.key").display()))?;
    Issuer::from_ca_cert_pem(&certificate, key)
        .with_context(|| format!("{} holds no certificate of an authority", dir.join("ca.pem").display()))
}

fn must_not_exist(files: &[&PathBuf]) -> anyhow::Result<()> {
    match files.iter().find(|file| file.exists()) {
        None => Ok(()),
        Some(file) => {
            bail!("{} is there already and is not overwritten; move it away, or choose another --dir", file.display())
        }
    }
}

fn write(file: &Path, content: &str, mode: u32) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", file.display());
    let mut open = OpenOptions::new().write(true).create_new(true).mode(mode).open(file).with_context(failed)?;
    open.write_all(content.as_bytes()).with_context(failed)?;
    open.sync_all().with_context(failed)
}
