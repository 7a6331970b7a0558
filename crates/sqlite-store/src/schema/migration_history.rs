//! Tables in which migration tools note what they did to a file.
//!
//! They speak of the schema of the file that they are in, and of no other. Were they synced, the first node to migrate
//! would tell the tools on all others that their files have been migrated too: their tables would never be made or changed,
//! and sync would wait for a schema that nobody brings about.

/// A tool, the name of its table, and columns by which it is told from an application's table of that name.
struct History {
    tool: &'static str,
    table: &'static str,
    columns: &'static [&'static str],
}

const fn history(tool: &'static str, table: &'static str, columns: &'static [&'static str]) -> History {
    History { tool, table, columns }
}

const HISTORIES: [History; 27] = [
    history("Django", "django_migrations", &["app", "name", "applied"]),
    history("Alembic", "alembic_version", &["version_num"]),
    history("Aerich", "aerich", &["version", "app", "content"]),
    history("Peewee", "migratehistory", &["name", "migrated_at"]),
    history("Yoyo", "_yoyo_migration", &["migration_hash", "migration_id"]),
    // Also Ecto, golang-migrate and dbmate.
    history("Rails", "schema_migrations", &["version"]),
    history("Rails", "ar_internal_metadata", &["key", "value"]),
    history("Sequel", "schema_migrations", &["filename"]),
    history("Sequel", "schema_info", &["version"]),
    history("Laravel", "migrations", &["migration", "batch"]),
    history("Doctrine", "doctrine_migration_versions", &["version"]),
    history("Phinx", "phinxlog", &["version", "migration_name"]),
    history("TypeORM", "migrations", &["timestamp", "name"]),
    history("Knex", "knex_migrations", &["name", "batch"]),
    history("Knex", "knex_migrations_lock", &["is_locked"]),
    history("Sequelize", "SequelizeMeta", &["name"]),
    history("Prisma", "_prisma_migrations", &["checksum", "migration_name"]),
    history("Drizzle", "__drizzle_migrations", &["hash", "created_at"]),
    history("Entity Framework", "__EFMigrationsHistory", &["MigrationId"]),
    history("Entity Framework", "__EFMigrationsLock", &["Id"]),
    history("Flyway", "flyway_schema_history", &["installed_rank", "checksum"]),
    history("Liquibase", "DATABASECHANGELOGLOCK", &["LOCKED"]),
    history("Goose", "goose_db_version", &["version_id", "is_applied"]),
    history("SQLx", "_sqlx_migrations", &["version", "checksum"]),
    history("Diesel", "__diesel_schema_migrations", &["version"]),
    history("Refinery", "refinery_schema_history", &["version", "checksum"]),
    history("Room", "room_master_table", &["identity_hash"]),
];

/// The tool whose notes a table of this name and these columns holds.
pub(super) fn tool<'a>(table: &str, columns: impl Iterator<Item = &'a str> + Clone) -> Option<&'static str> {
    let has = |wanted: &str| columns.clone().any(|column| column.eq_ignore_ascii_case(wanted));
    let found = HISTORIES
        .iter()
        .find(|history| history.table.eq_ignore_ascii_case(table) && history.columns.iter().all(|column| has(column)));
    found.map(|history| history.tool)
}

#[cfg(test)]
mod tests {
    use super::tool;

    #[test]
    fn a_table_counts_by_its_name_and_its_columns() {
        let tool = |table, columns: &[&'static str]| tool(table, columns.iter().copied());
        assert_eq!(tool("django_migrations", &["id", "app", "name", "applied"]), Some("Django"));
        assert_eq!(tool("sequelizemeta", &["name"]), Some("Sequelize"));
        assert_eq!(tool("schema_migrations", &["filename"]), Some("Sequel"));
        assert_eq!(tool("migrations", &["id", "migration", "batch"]), Some("Laravel"));
        // Of birds.
        assert_eq!(tool("migrations", &["id", "species", "from", "until"]), None);
        assert_eq!(tool("django_content_type", &["id", "app", "name", "applied"]), None);
    }
}
