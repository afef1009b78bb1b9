//! Which database a connection leads to: several names, addresses and AIQuotaStores may lead to one. A random text that
//! whoever comes first puts there tells it from all others; it moves with the data, to a replica or into a dump. Pure.

use super::{
    error::ReplyError,
    keys::DATABASE,
    resp::{Command, Reply},
};

/// Asks for the database's own text; read with [`id`].
#[must_use]
pub fn ask() -> Command {
    Command::get(DATABASE)
}

/// Gives it this one unless it has one; which of them it has then is to be asked.
#[must_use]
pub fn name(id: &str) -> Command {
    Command::new([b"SET", DATABASE, id.as_bytes(), b"NX"].map(<[u8]>::to_vec).into())
}

/// The reply to [`ask`]; nothing where nobody gave it a text, or it was emptied since.
pub fn id(reply: &Reply<'_>) -> Result<Option<String>, ReplyError> {
    match reply {
        Reply::Bulk(id) => Ok(Some(String::from_utf8_lossy(id).into_owned())),
        Reply::Nil => Ok(None),
        Reply::Error(text) => Err(ReplyError::from_text(text)),
        _ => Err(ReplyError::Unexpected),
    }
}

/// The reply to [`name`].
pub fn named(reply: &Reply<'_>) -> Result<(), ReplyError> {
    match reply {
        Reply::Simple(b"OK") | Reply::Nil => Ok(()),
        Reply::Error(text) => Err(ReplyError::from_text(text)),
        _ => Err(ReplyError::Unexpected),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &Command) -> Vec<String> {
        command.words().map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    #[test]
    fn the_commands_are_pinned() {
        assert_eq!(words(&ask()), ["GET", "aiquota:database"]);
        assert_eq!(words(&name("17")), ["SET", "aiquota:database", "17", "NX"]);
    }

    #[test]
    fn a_database_has_a_text_or_none_and_takes_the_first() {
        assert_eq!(id(&Reply::Bulk(b"17")), Ok(Some("17".to_owned())));
        assert_eq!(id(&Reply::Nil), Ok(None));
        assert_eq!((named(&Reply::Simple(b"OK")), named(&Reply::Nil)), (Ok(()), Ok(())));
        assert!(matches!(named(&Reply::Error(b"READONLY no")), Err(ReplyError::ReadOnly(_))));
        assert!(matches!(id(&Reply::Error(b"NOPERM no")), Err(ReplyError::Refused(_))));
        assert_eq!(
            (id(&Reply::Integer(1)), named(&Reply::Integer(1))),
            (Err(ReplyError::Unexpected), Err(ReplyError::Unexpected))
        );
    }
}
