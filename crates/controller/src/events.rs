//! What users should see in `kubectl describe` in, Events of events.k8s.io/v1 out. An Event that cannot be written
//! is logged and costs nothing else. I/O: the API server.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube_runtime::events::{Event, EventType, Recorder};

/// The API server takes notes up to 1 kB.
const LONGEST_NOTE: usize = 1_000;

/// The publisher of Events.
pub(crate) struct Events {
    recorder: Recorder,
}

/// What a person should look at.
pub(crate) struct Note<'a> {
    pub(crate) reason: &'a str,
    pub(crate) action: &'a str,
    pub(crate) message: &'a str,
}

impl Events {
    pub(crate) fn new(client: Client) -> Self {
        Self { recorder: Recorder::new(client, api::MANAGER.into()) }
    }

    pub(crate) async fn publish(&self, about: &ObjectReference, note: &Note<'_>) {
        let Note { reason, action, message } = *note;
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            action: action.to_owned(),
            note: Some(cut(message, LONGEST_NOTE).to_owned()),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, about).await {
            tracing::warn!(reason, %error, "Event not written");
        }
    }
}

/// The longest beginning of `text` that has at most `bytes` bytes and ends with a character.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(cut("abc", 5), "abc");
        assert_eq!(cut("abc", 2), "ab");
        assert_eq!(cut("aéb", 2), "a");
    }
}
