//! `tls`: the arguments.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Tls {
    /// Make the authority of a cluster: ca.pem, which all nodes have, and ca.key, which signs and stays where it is
    #[command(after_help = "Examples:\n  sync-engine tls ca --dir pki")]
    Ca(TlsCa),
    /// Make a node's certificate and key, signed by the authority: NAME.pem and NAME.key
    #[command(
        after_help = "The certificate is for the server and the client side of TLS. Peers reach the node by its name, or by what \
                      --host says; with --host localhost any tunnel that ends on this machine is believed to lead to it.\n\nExamples:\n  sync-engine tls node oslo --dir pki --host oslo.example --host 192.0.2.7"
    )]
    Node(TlsNode),
}

#[derive(Debug, Args)]
pub(crate) struct TlsCa {
    /// Folder for the files
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// The cluster's name, for people who look at the certificate
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) cluster: String,
    /// For how many days it is valid
    #[arg(long, value_name = "N", default_value = "3650", value_parser = clap::value_parser!(u32).range(1..=36500))]
    pub(crate) days: u32,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TlsNode {
    /// The node's name: letters, digits and hyphens, as in a DNS name
    #[arg(value_name = "NAME")]
    pub(crate) node: String,
    /// Folder with ca.pem and ca.key, and for the new files
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// A DNS name or an address that peers reach the node by; may be repeated
    #[arg(long = "host", value_name = "HOST")]
    pub(crate) hosts: Vec<String>,
    /// For how many days it is valid
    #[arg(long, value_name = "N", default_value = "825", value_parser = clap::value_parser!(u32).range(1..=36500))]
    pub(crate) days: u32,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
