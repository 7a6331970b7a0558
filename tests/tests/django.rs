//! Django as the application, on two nodes: its own migrations, its admin, its sessions, its models. It is not changed and
//! knows nothing of sync; each action is a process of its own.

use std::path::PathBuf;
use std::process::Command;

use system_tests::{
    Cluster, Contents, Result, Running, Scene, Topology, check, check_equal, data_file, python_with, query_text,
    run_to_end, scenario,
};

/// Two nodes on which the same site runs.
struct Site {
    python: &'static str,
    cluster: Cluster,
}

/// How `manage.py migrate` is run.
#[derive(Clone, Copy)]
enum Way {
    /// As it is, beside the daemon.
    Plain,
    /// By `sync-engine migrate`.
    Lifted,
}

impl Site {
    /// Nodes whose daemons run; the files are not there yet.
    fn new(scene: &Scene) -> Result<Self> {
        let python = python_with("django", "install Django, for example with `apt-get install python3-django`")?;
        let mut cluster = Cluster::new(scene, "shop", 2, Topology::Line)?;
        cluster.own_table("django_migrations");
        cluster.start()?;
        Ok(Self { python, cluster })
    }

    /// A site that both nodes have made as of its first release, with a superuser of each.
    fn first_release(scene: &Scene) -> Result<Self> {
        let site = Self::new(scene)?;
        site.migrate(0, 1, Way::Plain)?;
        site.migrate(1, 1, Way::Plain)?;
        site.cluster.settled()?;
        for (node, name) in [(0, "ann"), (1, "bob")] {
            site.work(node, 1, &["superuser", name])?;
            site.cluster.settled()?;
        }
        Ok(site)
    }

    /// A process of the site on a node, as of a release.
    fn command(&self, node: usize, release: u8, script: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.python);
        command.arg("-B").arg(script_path(script)).args(arguments);
        command.env("SHOP_DATABASE", self.cluster.file(node)).env("SHOP_RELEASE", release.to_string());
        command
    }

    #[track_caller]
    fn work(&self, node: usize, release: u8, arguments: &[&str]) -> Result<String> {
        run_to_end(&mut self.command(node, release, "work.py", arguments))?.success()
    }

    /// Runs the migrations that a release has and the one before it has not.
    #[track_caller]
    fn migrate(&self, node: usize, release: u8, way: Way) -> Result {
        let arguments: &[&[&str]] = match release {
            1 => &[&["admin"], &["sessions"], &["auth"], &["shop", "0001"]],
            2 => &[&["shop", "0002"]],
            _ => &[&[]],
        };
        for arguments in arguments {
            let arguments = [&["migrate", "-v0"], *arguments].concat();
            let mut command = match way {
                Way::Plain => self.command(node, release, "manage.py", &arguments),
                Way::Lifted => self.lifted(self.command(node, release, "manage.py", &arguments), node)?,
            };
            run_to_end(&mut command)?.success()?;
        }
        let noted = query_text(self.cluster.file(node), "SELECT count(*) FROM django_migrations WHERE app = 'shop'")?;
        check_equal!(noted, release.to_string());
        Ok(())
    }

    /// The same command, run by `sync-engine migrate`.
    fn lifted(&self, command: Command, node: usize) -> Result<Command> {
        let mut lifted = self.cluster.nodes[node].command()?;
        lifted
            .arg("migrate")
            .arg(self.cluster.file(node))
            .arg("--")
            .arg(command.get_program())
            .args(command.get_args());
        lifted.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Ok(lifted)
    }

    /// Begins to place orders on a node, as a program that runs beside what comes next.
    fn start_orders(&self, node: usize, release: u8, arguments: [&str; 3]) -> Result<Running> {
        let [name, sku, count] = arguments;
        let mut command = self.command(node, release, "work.py", &["orders", name, sku, count]);
        Running::start(&mut command, &self.cluster.nodes[node].path("orders"))
    }

    /// Conflicts that a node has recorded, by kind and table.
    fn conflicts(&self, node: usize) -> Result<String> {
        let sql = "SELECT kind || ' ' || tbl || ' ' || count(*) FROM _sync_conflict GROUP BY kind, tbl ORDER BY 1";
        query_text(self.cluster.file(node), sql)
    }

    /// Awaits that both files are equal, and checks that Django can read all that is in them.
    fn settled(&self, release: u8, orders: usize) -> Result<Contents> {
        let rows = self.cluster.settled()?;
        check_equal!(rows.count("shop_order"), orders);
        for node in [0, 1] {
            self.work(node, release, &["check", &orders.to_string()])?;
            let broken = query_text(self.cluster.file(node), "PRAGMA foreign_key_check")?;
            check_equal!(broken, "");
            check_equal!(self.cluster.nodes[node].get("/healthz")?.status, 200);
        }
        Ok(rows)
    }
}

fn script_path(name: &str) -> PathBuf {
    data_file("django").join(name)
}

/// Each node's own migrations make the same rows of content types and permissions: equal rows are no conflict. What Django
/// notes of its migrations stays where it is, or the second node would believe that it has had them.
#[test]
fn both_nodes_migrate_for_themselves() {
    scenario(|scene| {
        let site = Site::new(scene)?;
        site.migrate(0, 1, Way::Plain)?;
        site.migrate(1, 1, Way::Plain)?;
        let rows = site.cluster.settled()?;
        check!(rows.count("auth_permission") > 20, "{}", rows.count("auth_permission"));
        for node in [0, 1] {
            check_equal!(site.conflicts(node)?, "");
            let shown =
                run_to_end(&mut site.command(node, 3, "manage.py", &["showmigrations", "--list"]))?.success()?;
            let missing: Vec<&str> = shown.lines().filter(|line| line.contains("[ ]")).map(str::trim).collect();
            check_equal!(missing, ["[ ] 0002_totals", "[ ] 0003_remarks"]);
        }
        Ok(())
    });
}

#[test]
fn people_and_programs_work_on_both_nodes() {
    scenario(|scene| {
        let site = Site::first_release(scene)?;
        // Keys that SQLite gives out: one node after the other.
        site.work(0, 1, &["admin", "ann", "Alpina"])?;
        site.cluster.settled()?;
        site.work(1, 1, &["admin", "bob", "Boreal"])?;
        let rows = site.cluster.settled()?;
        check_equal!((rows.count("shop_product"), rows.count("shop_tag")), (2, 4));
        check_equal!((rows.count("django_session"), rows.count("django_admin_log")), (2, 14));
        // Keys that are UUIDs, and different columns of one row: at the same time.
        let orders = [(0, ["ann", "Boreal-1", "20"]), (1, ["bob", "Alpina-1", "20"])];
        let running =
            orders.into_iter().map(|(node, words)| site.start_orders(node, 1, words)).collect::<Result<Vec<_>>>()?;
        site.work(0, 1, &["retitle", "Boreal-1", "Kiste 'Nord' \u{1f4e6}"])?;
        site.work(1, 1, &["reprice", "Boreal-1", "0.30"])?;
        for orders in running {
            orders.finish(system_tests::DEADLINE)?.success()?;
        }
        site.settled(1, 40)?;
        let product = "SELECT title, price, attributes FROM shop_product WHERE sku = 'Boreal-1'";
        let expected = "Kiste 'Nord' \u{1f4e6}|0.3|{\"title\": \"Kiste 'Nord' \\ud83d\\udce6\", \"old\": null}";
        check_equal!(query_text(site.cluster.file(0), product)?, expected);
        // A session that began on one node goes on at the other; a user's deletion takes along what Django cascades to.
        site.work(1, 1, &["cancel", "ann"])?;
        let rows = site.settled(1, 20)?;
        check_equal!((rows.count("auth_user"), rows.count("django_admin_log")), (1, 7));
        check_equal!((site.conflicts(0)?, site.conflicts(1)?), (String::new(), String::new()));
        Ok(())
    });
}

/// The second and the third release, first on one node, then on the other, while orders are placed.
fn migrated_in_turn(scene: &Scene, way: Way) -> Result {
    let site = Site::first_release(scene)?;
    site.work(0, 1, &["admin", "ann", "Alpina"])?;
    site.work(0, 1, &["orders", "ann", "Alpina-1", "5"])?;
    site.settled(1, 5)?;
    for release in [2, 3] {
        let (new, old) = (release, release - 1);
        let beside = site.start_orders(1, old, ["bob", "Alpina-1", "15"])?;
        site.migrate(0, new, way)?;
        site.work(0, new, &["orders", "ann", "Alpina-1", "5"])?;
        site.work(0, new, &["retitle", "Alpina-1", &format!("Alpina, release {release}")])?;
        beside.finish(system_tests::DEADLINE)?.success()?;
        let beside = site.start_orders(0, new, ["ann", "Alpina-1", "15"])?;
        site.migrate(1, new, way)?;
        site.work(1, new, &["orders", "bob", "Alpina-1", "5"])?;
        beside.finish(system_tests::DEADLINE)?.success()?;
        site.settled(new, 5 + 40 * usize::from(release - 1))?;
    }
    for node in [0, 1] {
        let file = site.cluster.file(node);
        // Rows that a migration left as they were rival nothing; a table that was rebuilt in the open is sent anew.
        if let Way::Lifted = way {
            let told = query_text(file, "SELECT group_concat(record, char(10)) FROM _sync_conflict")?;
            check_equal!(site.conflicts(node)?, "", "{told}");
        }
        // What the first of the two migrations filled in, on whichever node the order was placed.
        check_equal!(query_text(file, "SELECT count(*) FROM shop_order WHERE remark IS NULL")?, "0");
        check_equal!(query_text(file, "SELECT title FROM shop_product")?, "Alpina, release 3");
        let pending = run_to_end(&mut site.command(node, 3, "manage.py", &["migrate", "--check"]))?;
        check_equal!(pending.code, Some(0));
    }
    Ok(())
}

#[test]
fn later_migrations_run_on_one_node_after_the_other_beside_the_daemons() {
    scenario(|scene| migrated_in_turn(scene, Way::Plain));
}

#[test]
fn later_migrations_run_on_one_node_after_the_other_with_the_triggers_lifted() {
    scenario(|scene| migrated_in_turn(scene, Way::Lifted));
}
