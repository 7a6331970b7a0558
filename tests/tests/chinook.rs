//! A well-known database on three nodes, in each topology: it spreads from one node, all of them sell, all end equal.

use system_tests::{Cluster, Result, Scene, Topology, check_equal, data_file, python_script, run_to_end, scenario};

const SHOPS: usize = 3;
/// Sales a shop makes while the others make theirs.
const INVOICES: usize = 60;
/// Rows of the file as it is published.
const ROWS: usize = 15_607;
/// Sales in the file as it is published.
const INVOICES_BEFORE: usize = 412;

/// The first node has the data, the others only the tables.
fn one_full(scene: &Scene, topology: Topology) -> Result {
    let mut cluster = Cluster::new(scene, "chinook", SHOPS, topology)?;
    let original = data_file("chinook.sqlite");
    let schema = system_tests::shell(&original, ".schema --nosys")?;
    std::fs::copy(&original, cluster.file(0))?;
    for index in 1..SHOPS {
        system_tests::shell(cluster.file(index), &schema)?;
    }
    cluster.start()?;
    let rows = cluster.settled()?;
    check_equal!(rows.rows(), ROWS);
    sell(&cluster)
}

/// All nodes begin with copies of the same file.
fn all_full(scene: &Scene, topology: Topology) -> Result {
    let mut cluster = Cluster::new(scene, "chinook", SHOPS, topology)?;
    for file in cluster.files() {
        std::fs::copy(data_file("chinook.sqlite"), file)?;
    }
    cluster.start()?;
    let rows = cluster.settled()?;
    check_equal!(rows.rows(), ROWS);
    sell(&cluster)
}

/// Lets a program write on every node at once, and looks for each sale.
fn sell(cluster: &Cluster) -> Result {
    let sellers: Vec<_> = cluster
        .files()
        .into_iter()
        .zip(1..)
        .map(|(file, shop)| {
            let mut command = python_script("chinook_writer.py");
            command.arg(file).args([shop.to_string(), INVOICES.to_string()]);
            std::thread::spawn(move || run_to_end(&mut command)?.success())
        })
        .collect();
    for seller in sellers {
        match seller.join() {
            Ok(sold) => sold?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
    }
    let rows = cluster.settled()?;
    check_equal!(rows.count("Invoice"), INVOICES_BEFORE + SHOPS * INVOICES);
    check_equal!(rows.count("InvoiceLine"), 2240 + SHOPS * INVOICES * 3);
    check_equal!(rows.count("Playlist"), 18 + SHOPS);
    let priced = system_tests::query_text(cluster.file(0), "SELECT count(*) > 0 FROM Track WHERE Composer = 'shop 3'")?;
    check_equal!(priced, "1");
    for node in &cluster.nodes {
        check_equal!(node.database_status("chinook")?["foreign_key_missing"]["count"], 0);
        check_equal!(
            node.log().matches("foreign_key_missing").count(),
            0,
            "rows come with their parents or soon after"
        );
    }
    Ok(())
}

#[test]
fn spreads_from_one_node_over_a_mesh() {
    scenario(|scene| one_full(scene, Topology::Mesh));
}

#[test]
fn spreads_from_one_node_along_a_line() {
    scenario(|scene| one_full(scene, Topology::Line));
}

#[test]
fn spreads_from_one_node_through_a_star() {
    scenario(|scene| one_full(scene, Topology::Star));
}

#[test]
fn equal_copies_stay_equal_in_a_mesh() {
    scenario(|scene| all_full(scene, Topology::Mesh));
}

#[test]
fn equal_copies_stay_equal_along_a_line() {
    scenario(|scene| all_full(scene, Topology::Line));
}

#[test]
fn equal_copies_stay_equal_in_a_star() {
    scenario(|scene| all_full(scene, Topology::Star));
}
