//! A full-text index that the application's triggers maintain stays right on the node that receives the rows.

use system_tests::{Cluster, Result, Topology, check_equal, python_code, scenario, shell};

const SCHEMA: &str = "
    CREATE TABLE article (id INTEGER PRIMARY KEY, title TEXT, body TEXT);
    CREATE VIRTUAL TABLE article_fts USING fts5(title, body, content = 'article', content_rowid = 'id');
    CREATE TRIGGER article_ai AFTER INSERT ON article BEGIN
      INSERT INTO article_fts(rowid, title, body) VALUES (new.id, new.title, new.body);
    END;
    CREATE TRIGGER article_ad AFTER DELETE ON article BEGIN
      INSERT INTO article_fts(article_fts, rowid, title, body) VALUES ('delete', old.id, old.title, old.body);
    END;
    CREATE TRIGGER article_au AFTER UPDATE ON article BEGIN
      INSERT INTO article_fts(article_fts, rowid, title, body) VALUES ('delete', old.id, old.title, old.body);
      INSERT INTO article_fts(rowid, title, body) VALUES (new.id, new.title, new.body);
    END;";

/// The articles that a search finds, after the index has been compared with the articles.
fn search(file: &std::path::Path, word: &str) -> Result<String> {
    shell(file, "INSERT INTO article_fts(article_fts, rank) VALUES ('integrity-check', 1)")?;
    let found = shell(
        file,
        &format!(
            "SELECT group_concat(rowid) FROM (SELECT rowid FROM article_fts WHERE article_fts MATCH '{word}' ORDER BY rowid)"
        ),
    )?;
    Ok(found.trim().to_owned())
}

#[test]
fn the_index_follows_inserts_updates_and_deletes() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "articles", 2, Topology::Mesh)?;
        cluster.create(SCHEMA)?;
        cluster.start()?;
        cluster.settled()?;
        shell(
            cluster.file(0),
            "INSERT INTO article VALUES (1, 'Harbour', 'ships and cranes'), (2, 'Forest', 'trees and birds'), (3, 'Lake', 'boats and birds')",
        )?;
        cluster.settled()?;
        check_equal!(search(cluster.file(1), "birds")?, "2,3");
        shell(
            cluster.file(1),
            "UPDATE article SET body = 'trees and owls' WHERE id = 2; DELETE FROM article WHERE id = 1; \
             INSERT OR REPLACE INTO article VALUES (4, 'Sky', 'clouds and birds')",
        )?;
        cluster.settled()?;
        for file in cluster.files() {
            check_equal!(search(file, "birds")?, "3,4");
            check_equal!(search(file, "owls")?, "2");
            check_equal!(search(file, "ships")?, "");
        }
        Ok(())
    });
}

#[test]
fn the_index_is_filled_by_the_first_transfer() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "articles", 2, Topology::Mesh)?;
        cluster.create(SCHEMA)?;
        python_code(
            cluster.file(0),
            "db.execute('BEGIN')\n\
             db.executemany('INSERT INTO article VALUES (?, ?, ?)', ((n, f'title{n}', 'even' if n % 2 == 0 else 'odd') for n in range(1, 301)))\n\
             db.execute('COMMIT')",
        )?;
        cluster.start()?;
        let rows = cluster.settled()?;
        check_equal!(rows.count("article"), 300);
        check_equal!(search(cluster.file(1), "title77")?, "77");
        check_equal!(search(cluster.file(1), "even")?.split(',').count(), 150);
        Ok(())
    });
}
