//! Conflict records of all databases of an engine: found by their ids, listed as one, acted on.

use sqlite_store::{ConflictAction, ConflictQuery, Database, StoreError};

use crate::conflicts::{ConflictError, ConflictFilter, ConflictRecord, record_id};
use crate::engine::shared::{Shared, millis_of};
use crate::engine::source::Source;
use crate::event::{Event, EventName};

impl Shared {
    /// Records, the newest first.
    pub(crate) async fn conflicts(&self, filter: &ConflictFilter) -> Result<Vec<ConflictRecord>, ConflictError> {
        let after = match &filter.before {
            Some(id) => Some(self.place_of(id).await?),
            None => None,
        };
        let query = ConflictQuery {
            table: filter.table.clone(),
            kind: filter.kind.clone(),
            state: filter.state.map(|state| state.as_str().to_owned()),
            node: filter.node.clone(),
            since: filter.since.map(millis_of),
            before: None,
            limit: filter.limit,
        };
        let databases = match &filter.database {
            Some(name) => vec![self.file(name)?],
            None => self.files(),
        };
        let mut found = Vec::new();
        for database in databases {
            let before = after.as_ref().map(|(at, number, name)| {
                // Of records that are otherwise alike those of the database that comes first by name are first.
                (*at, if database.name() > name.as_str() { number.saturating_add(1) } else { *number })
            });
            match database.conflicts(&ConflictQuery { before, ..query.clone() }).await {
                Ok(records) => found.extend(records.into_iter().map(|record| (database.name().to_owned(), record))),
                // A file that is yet to come has no records; one that was asked for by name is missed.
                Err(StoreError::Absent { .. } | StoreError::NotAttached) if filter.database.is_none() => {}
                Err(source) => return Err(failed(&database, source)),
            }
        }
        found.sort_by(|(database, record), (other, later)| {
            (later.at, later.number).cmp(&(record.at, record.number)).then_with(|| database.cmp(other))
        });
        found.truncate(usize::try_from(filter.limit).unwrap_or(usize::MAX));
        Ok(found.into_iter().map(|(database, record)| ConflictRecord::new(&database, record)).collect())
    }

    /// Where a record stands in the list of all: its time, its number and its database's name.
    async fn place_of(&self, id: &str) -> Result<(i64, i64, String), ConflictError> {
        let (database, number) = self.locate(id).await?;
        match database.conflict(number).await.map_err(|source| failed(&database, source))? {
            Some(record) => Ok((record.at, number, database.name().to_owned())),
            None => Err(ConflictError::Unknown { id: record_id(database.name(), number) }),
        }
    }

    /// One record.
    pub(crate) async fn conflict(&self, id: &str) -> Result<ConflictRecord, ConflictError> {
        let (database, number) = self.locate(id).await?;
        let record = database.conflict(number).await.map_err(|source| failed(&database, source))?;
        match record {
            Some(record) => Ok(ConflictRecord::new(database.name(), record)),
            None => Err(ConflictError::Unknown { id: record_id(database.name(), number) }),
        }
    }

    /// Acts on a record; returns it as it is then.
    pub(crate) async fn act_on_conflict(
        &self,
        id: &str,
        action: ConflictAction,
    ) -> Result<ConflictRecord, ConflictError> {
        let (database, number) = self.locate(id).await?;
        let acted = database.act(number, action).await.map_err(|source| failed(&database, source))?;
        let refused = |refusal| ConflictError::refused(record_id(database.name(), number), refusal);
        let record = ConflictRecord::new(database.name(), acted.map_err(refused)?);
        let name = match action {
            ConflictAction::Restore => EventName::ConflictRestore,
            ConflictAction::Dismiss => EventName::ConflictDismiss,
        };
        self.events.emit(
            Event::new(name)
                .field("kind", record.kind.as_str())
                .field("database", record.database.as_str())
                .field("table", record.table.as_str())
                .field("key", record.key.to_string())
                .field("id", record.id.as_str()),
        );
        Ok(record)
    }

    /// The database and the number that an id names. A number alone is enough where only one database has that record.
    async fn locate(&self, id: &str) -> Result<(Database, i64), ConflictError> {
        let wrong = || ConflictError::Id { text: id.to_owned() };
        let number = |text: &str| text.parse::<i64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        if let Some((name, text)) = id.rsplit_once(':') {
            let number = number(text).ok_or_else(wrong)?;
            return Ok((self.file(name)?, number));
        }
        let number = number(id).ok_or_else(wrong)?;
        let mut having = Vec::new();
        for database in self.files() {
            match database.conflict(number).await {
                Ok(Some(_)) => having.push(database),
                Ok(None) | Err(StoreError::Absent { .. } | StoreError::NotAttached) => {}
                Err(source) => return Err(failed(&database, source)),
            }
        }
        match having.len() {
            0 => Err(ConflictError::Unknown { id: id.to_owned() }),
            1 => Ok((having.remove(0), number)),
            _ => {
                let candidates = having.iter().map(|database| record_id(database.name(), number)).collect();
                Err(ConflictError::Ambiguous { number, candidates })
            }
        }
    }

    /// The databases that are files.
    pub(crate) fn files(&self) -> Vec<Database> {
        let files = self.databases.members().into_iter().filter_map(|member| match member.source {
            Source::File(database) => Some(database),
            Source::Subscriber(_) => None,
        });
        files.collect()
    }

    pub(crate) fn file(&self, name: &str) -> Result<Database, ConflictError> {
        let mut files = self.files();
        match files.iter().position(|database| database.name() == name) {
            Some(place) => Ok(files.swap_remove(place)),
            None => {
                let known = files.iter().map(|database| database.name().to_owned()).collect();
                Err(ConflictError::Database { name: name.to_owned(), known })
            }
        }
    }
}

fn failed(database: &Database, source: StoreError) -> ConflictError {
    ConflictError::Store { database: database.name().to_owned(), source }
}
