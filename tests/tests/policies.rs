//! The README's table of conflicts, read from the README and run line by line on real daemons.

use std::fmt::Write as _;

use system_tests::{Cluster, Failure, Result, Scene, Topology, check, check_equal, fail, query_text, scenario, shell};

/// The line that the table begins with.
const HEAD: &str = "| what meets | `[[database.table]]` | berlin writes | oslo writes, later | all nodes end with | recorded as decided by |";
const NODES: [&str; 2] = ["berlin", "oslo"];
const COLUMNS: [&str; 6] = ["sku", "ean", "qty", "note", "tags", "at"];
/// The row that is there before, as the README says, where no line inserts.
const BEFORE: [&str; 6] = ["'A'", "NULL", "10", "'old'", "'[\"x\"]'", "'2026-01-01'"];
/// What an insert that names four columns leaves.
const INSERTED: [&str; 6] = ["'A'", "NULL", "NULL", "NULL", "NULL", "NULL"];

/// One line of the table, with a table of its own in the database.
struct Case {
    table: String,
    /// Its first two cells, for messages.
    what: String,
    /// The lines of its `[[database.table]]`.
    settings: Vec<String>,
    /// What berlin and oslo write.
    writes: [String; 2],
    /// What columns hold in the end; none if there is no row.
    end: Option<Vec<(String, String)>>,
    /// The policy in the record; none if nothing is recorded.
    policy: Option<String>,
}

/// What stands between backticks.
fn code(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Takes exactly one piece of code.
fn one(cell: &str) -> Result<String> {
    match <[String; 1]>::try_from(code(cell)) {
        Ok([only]) => Ok(only),
        Err(found) => Err(Failure::new(format!("the README's cell {cell:?} has not one piece of code but {found:?}"))),
    }
}

impl Case {
    fn read(number: usize, line: &str) -> Result<Self> {
        let cells: Vec<&str> = line.trim().trim_matches('|').split(" |").map(str::trim).collect();
        let [what, settings, berlin, oslo, end, policy] = cells[..] else {
            fail!("the README's line has not six cells but {cells:?}")
        };
        let assignment = |text: String| -> Result<(String, String)> {
            let Some((column, value)) = text.split_once(" = ") else {
                fail!("{text:?} says of no column what it holds")
            };
            check!(COLUMNS.contains(&column), "there is no column {column:?}");
            Ok((column.to_owned(), value.to_owned()))
        };
        Ok(Self {
            table: format!("stock_{number}"),
            what: format!("{what}, {settings}"),
            settings: code(settings),
            writes: [one(berlin)?, one(oslo)?],
            end: match end {
                "no row" => None,
                _ => Some(code(end).into_iter().map(assignment).collect::<Result<_>>()?),
            },
            policy: match policy {
                "nothing is" => None,
                _ => Some(one(policy)?),
            },
        })
    }

    fn inserts(&self) -> bool {
        self.writes.iter().any(|write| write.starts_with("INSERT"))
    }

    /// The statement that a cell is short for.
    fn statement(&self, node: usize) -> Result<String> {
        let (table, write) = (&self.table, &self.writes[node]);
        if let Some(values) = write.strip_prefix("INSERT ") {
            Ok(format!("INSERT INTO {table} (sku, ean, qty, note) VALUES {values};"))
        } else if write.starts_with("SET ") {
            Ok(format!("UPDATE {table} {write} WHERE sku = 'A';"))
        } else if write == "DELETE" {
            Ok(format!("DELETE FROM {table} WHERE sku = 'A';"))
        } else {
            fail!("{write:?} is none of SET, INSERT and DELETE")
        }
    }

    /// The row of the end, as a query that needs no table.
    fn expected(&self) -> String {
        let Some(end) = &self.end else { return format!("SELECT * FROM {} WHERE false", self.table) };
        let row = if self.inserts() { INSERTED } else { BEFORE };
        let value = |(column, before): (&&str, &str)| {
            let said = end.iter().find(|(name, _)| name == *column);
            said.map_or_else(|| before.to_owned(), |(_, value)| value.clone())
        };
        let values: Vec<String> = COLUMNS.iter().zip(row).map(value).collect();
        format!("SELECT {}", values.join(", "))
    }

    /// Compares what both nodes hold and recorded with what the line says.
    fn check(&self, cluster: &Cluster) -> Result {
        for (file, node) in cluster.files().into_iter().zip(NODES) {
            let found = query_text(file, &format!("SELECT {} FROM {}", COLUMNS.join(", "), self.table))?;
            check_equal!(found, query_text(file, &self.expected())?, "{node} ends with something else");
        }
        let records = self.records(cluster)?;
        let Some(policy) = &self.policy else {
            check!(records.is_empty(), "there is a record: {records:?}");
            return Ok(());
        };
        check!(!records.is_empty(), "nothing is recorded");
        for [decided_by, winner, loser] in &records {
            check_equal!(decided_by, policy);
            let mut sides = [winner.as_str(), loser.as_str()];
            sides.sort_unstable();
            check_equal!(sides, NODES, "the record does not hold both sides");
        }
        Ok(())
    }

    /// The policy, the winner's node and the loser's node of each record of either node.
    fn records(&self, cluster: &Cluster) -> Result<Vec<[String; 3]>> {
        let mut records = Vec::new();
        for node in &cluster.nodes {
            let list: serde_json::Value = node.get(&format!("/v1/conflicts?table={}", self.table))?.json()?;
            let Some(list) = list.as_array() else { fail!("no list of records: {list}") };
            let text = |value: &serde_json::Value| value.as_str().unwrap_or("missing").to_owned();
            records.extend(list.iter().map(|record| {
                [text(&record["policy"]), text(&record["winner"]["node"]), text(&record["loser"]["node"])]
            }));
        }
        Ok(records)
    }
}

/// The lines of the README's table.
fn cases() -> Result<Vec<Case>> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"))?;
    let mut lines = readme.lines().skip_while(|line| *line != HEAD);
    check!(lines.next().is_some(), "the README has no table that begins with {HEAD}");
    let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
    rows.enumerate().map(|(number, line)| Case::read(number, line)).collect()
}

/// Two nodes in step, with a table for each case, whose settings both have.
fn in_step(scene: &Scene, cases: &[Case]) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "shop", 2, Topology::Line)?;
    let mut schema = String::new();
    let mut rows = String::new();
    for case in cases {
        let table = &case.table;
        let columns = "(sku TEXT PRIMARY KEY, ean INTEGER UNIQUE, qty INTEGER, note TEXT, tags TEXT, at TEXT)";
        let _ = writeln!(schema, "CREATE TABLE {table} {columns};");
        if !case.inserts() {
            let _ = writeln!(rows, "INSERT INTO {table} VALUES ({});", BEFORE.join(", "));
        }
        for node in &mut cluster.nodes {
            node.database_setting(&format!("[[database.table]]\nname = \"{table}\""));
            case.settings.iter().for_each(|line| node.database_setting(line));
        }
    }
    for (node, name) in cluster.nodes.iter_mut().zip(NODES) {
        node.rename(name);
    }
    cluster.create(&schema)?;
    cluster.start()?;
    // Written on one node only: equal files from the start would count as settled before the nodes have compared them.
    shell(cluster.file(0), &format!("BEGIN;\n{rows}COMMIT"))?;
    cluster.settled()?;
    Ok(cluster)
}

/// Lets berlin write, later oslo, neither knowing of the other, and awaits that they have met.
fn write_apart(cluster: &mut Cluster, cases: &[Case]) -> Result {
    let statements = |node| cases.iter().map(|case| case.statement(node)).collect::<Result<Vec<_>>>();
    cluster.nodes[1].stop()?;
    shell(cluster.file(0), &format!("BEGIN;\n{}\nCOMMIT", statements(0)?.join("\n")))?;
    // The stamp of a change is its commit's time to the millisecond; "later" has to be seen in it.
    let begun = std::time::SystemTime::now();
    Scene::within(system_tests::DEADLINE, "a later time", || {
        check!(begun.elapsed().is_ok_and(|passed| passed.as_millis() > 2), "the clock stands");
        Ok(())
    })?;
    shell(cluster.file(1), &format!("BEGIN;\n{}\nCOMMIT", statements(1)?.join("\n")))?;
    cluster.start()?;
    cluster.settled().map(drop)
}

#[test]
fn every_line_of_the_readmes_table_holds() {
    scenario(|scene| {
        let cases = cases()?;
        let mut cluster = in_step(scene, &cases)?;
        write_apart(&mut cluster, &cases)?;
        let wrong: Vec<String> =
            cases.iter().filter_map(|case| Some(format!("{}\n{}", case.what, case.check(&cluster).err()?))).collect();
        check!(wrong.is_empty(), "{} lines do not hold:\n{}", wrong.len(), wrong.join("\n"));
        Ok(())
    });
}

#[test]
fn the_readmes_table_has_every_policy() {
    scenario(|_| {
        let cases = cases()?;
        let policies =
            ["last-write-wins", "first-write-wins", "origin-priority", "max", "min", "union", "counter", "sql"];
        for policy in policies {
            let setting = format!("policy = \"{policy}\"");
            check!(
                cases.iter().flat_map(|case| &case.settings).any(|line| line.contains(&setting)),
                "no line of the README's table has {setting}"
            );
        }
        Ok(())
    });
}

#[test]
fn nodes_that_decide_by_other_policies_tell_of_it() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "shop", 2, Topology::Mesh)?;
        cluster.create(
            "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER); CREATE TABLE note (id TEXT PRIMARY KEY, t TEXT);",
        )?;
        for (node, policy) in [(0, "max"), (1, "min")] {
            let settings = format!("[[database.table]]\nname = \"stock\"\ncolumns.qty = {{ policy = \"{policy}\" }}");
            cluster.nodes[node].database_setting(&settings);
        }
        cluster.start()?;
        let told = |node: usize| -> Vec<String> {
            let log = cluster.nodes[node].log();
            log.lines().filter(|line| line.contains("kind=policy_mismatch")).map(str::to_owned).collect()
        };
        scene.eventually("both nodes tell it", || {
            check!(!told(0).is_empty() && !told(1).is_empty(), "nothing is told");
            Ok(())
        })?;
        cluster.settled()?;
        for (node, here, there) in [(0, "qty: max", "qty: min"), (1, "qty: min", "qty: max")] {
            let lines = told(node);
            check_equal!(lines.len(), 1, "{lines:?}");
            check!(lines[0].contains(" table=stock ") && lines[0].contains("remedy="), "{lines:?}");
            check!(lines[0].find(here) < lines[0].find(there) && lines[0].contains(here), "{lines:?}");
        }
        Ok(())
    });
}
