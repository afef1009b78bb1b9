//! The words of the Proxy-Wasm ABI: statuses, actions, buffer and map numbers, header maps and their packed form.
//! Pure.

/// What a host call answers.
pub(super) mod status {
    pub(crate) const OK: i32 = 0;
    pub(crate) const NOT_FOUND: i32 = 1;
    pub(crate) const BAD_ARGUMENT: i32 = 2;
    pub(crate) const INVALID_MEMORY: i32 = 6;
    pub(crate) const CAS_MISMATCH: i32 = 8;
    pub(crate) const INTERNAL_FAILURE: i32 = 10;
    pub(crate) const UNIMPLEMENTED: i32 = 12;
}

/// The buffers a module can read.
pub(super) mod buffer {
    pub(crate) const REQUEST_BODY: i32 = 0;
    pub(crate) const RESPONSE_BODY: i32 = 1;
    pub(crate) const VM_CONFIGURATION: i32 = 6;
    pub(crate) const PLUGIN_CONFIGURATION: i32 = 7;
    pub(crate) const REDIS_REPLY: i32 = 9;
}

/// The header maps a module can read.
pub(super) mod map {
    pub(crate) const REQUEST: i32 = 0;
    pub(crate) const RESPONSE: i32 = 2;
}

/// Which of the two ways through the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Request,
    Response,
}

/// The version a module exports; it decides what a returned header action means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abi {
    V0_1_0,
    V0_2_0,
    V0_2_1,
    V0_2_100,
}

impl Abi {
    /// In the order in which the host looks for them.
    pub(super) const ALL: [(&'static str, Self); 4] = [
        ("proxy_abi_version_0_1_0", Self::V0_1_0),
        ("proxy_abi_version_0_2_0", Self::V0_2_0),
        ("proxy_abi_version_0_2_1", Self::V0_2_1),
        ("proxy_abi_version_0_2_100", Self::V0_2_100),
    ];
}

/// What a header callback asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderAction {
    Continue,
    /// Headers wait; the body callbacks of this filter still run.
    StopIteration,
    /// Headers go on as if there were no body.
    ContinueAndEnd,
    /// All waits; a body beyond the limit is answered with 413.
    StopAllAndBuffer,
    /// All waits; a body beyond the limit is no longer read from the client.
    StopAllAndWatermark,
}

impl HeaderAction {
    pub(super) fn new(abi: Abi, returned: i32, stopped: bool) -> Self {
        match returned {
            _ if stopped => Self::StopAllAndWatermark,
            0 => Self::Continue,
            1 if abi == Abi::V0_2_100 => Self::StopIteration,
            2 => Self::ContinueAndEnd,
            3 => Self::StopAllAndBuffer,
            _ => Self::StopAllAndWatermark,
        }
    }
}

/// What a body callback asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyAction {
    Continue,
    StopAndBuffer,
    StopAndWatermark,
    StopNoBuffer,
}

impl BodyAction {
    pub(super) const fn new(returned: i32, stopped: bool) -> Self {
        match returned {
            _ if stopped => Self::StopNoBuffer,
            0 => Self::Continue,
            1 => Self::StopAndBuffer,
            2 => Self::StopAndWatermark,
            _ => Self::StopNoBuffer,
        }
    }
}

/// A header map in order, names in lower case, with the pseudo headers (`:path` and so on).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, Vec<u8>)>);

impl Headers {
    /// The first value, as Envoy answers a plain get.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_slice())
    }

    /// The first value as text, empty when there is none.
    pub fn text(&self, name: &str) -> String {
        self.get(name).map(|v| String::from_utf8_lossy(v).into_owned()).unwrap_or_default()
    }

    pub fn add(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        self.0.push((name.to_ascii_lowercase(), value.into()));
    }

    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
    }

    pub fn set(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        self.remove(name);
        self.add(name, value);
    }

    /// Number of pairs, sizes, then names and values each with a closing zero.
    pub(super) fn pack(&self) -> Vec<u8> {
        let mut out = (self.0.len() as u32).to_le_bytes().to_vec();
        for (name, value) in &self.0 {
            out.extend((name.len() as u32).to_le_bytes());
            out.extend((value.len() as u32).to_le_bytes());
        }
        for (name, value) in &self.0 {
            out.extend(name.as_bytes());
            out.push(0);
            out.extend(value);
            out.push(0);
        }
        out
    }

    /// The inverse of [`Headers::pack`]; `None` for anything malformed.
    pub(super) fn unpack(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
        let count = word(0)?;
        let mut at = count.checked_mul(8)?.checked_add(4)?;
        if at > bytes.len() {
            return None;
        }
        let mut headers = Self::default();
        for i in 0..count {
            let (name_len, value_len) = (word(4 + i * 8)?, word(8 + i * 8)?);
            let name = bytes.get(at..at.checked_add(name_len)?)?;
            at += name_len + 1;
            let value = bytes.get(at..at.checked_add(value_len)?)?;
            at += value_len + 1;
            headers.add(&String::from_utf8_lossy(name), value);
        }
        Some(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_map_survives_packing_with_repeats_and_empty_values() {
        let mut headers = Headers::default();
        headers.add(":path", "/v1");
        headers.add("x-mse-consumer", "a");
        headers.add("X-Mse-Consumer", "");
        assert_eq!(Headers::unpack(&headers.pack()), Some(headers));
    }

    #[test]
    fn malformed_pairs_are_refused() {
        let mut headers = Headers::default();
        headers.add("name", "value");
        let packed = headers.pack();
        for cut in 1..packed.len() - 1 {
            assert_eq!(Headers::unpack(&packed[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Headers::unpack(&[255; 12]), None);
    }

    #[test]
    fn only_the_newest_version_keeps_the_exact_header_action() {
        assert_eq!(HeaderAction::new(Abi::V0_2_100, 1, false), HeaderAction::StopIteration);
        assert_eq!(HeaderAction::new(Abi::V0_2_1, 1, false), HeaderAction::StopAllAndWatermark);
        assert_eq!(HeaderAction::new(Abi::V0_2_100, 0, true), HeaderAction::StopAllAndWatermark);
    }
}
