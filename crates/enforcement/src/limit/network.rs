//! Addresses and networks. In: what a header or the host says of an address, and networks of a configuration. Out: an
//! address, and the first of the networks that it lies in, found bit by bit in a tree: the cost does not grow with
//! their number. Pure.

use std::net::IpAddr;

/// Networks, each with the index it was entered with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Networks {
    v4: Tree,
    v6: Tree,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Tree(Vec<Node>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Node {
    /// By the next bit; the root is nobody's child.
    children: [Option<usize>; 2],
    /// The lowest index of a network that ends here.
    index: Option<usize>,
}

impl Default for Tree {
    fn default() -> Self {
        Self(vec![Node::default()])
    }
}

impl Networks {
    /// Enters an address, or a network as `10.0.0.0/8`; `false` if it is none.
    #[must_use]
    pub(super) fn add(&mut self, text: &str, index: usize) -> bool {
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let Ok(written) = address.parse::<IpAddr>() else { return false };
        let address = written.to_canonical();
        // An IPv4 address as IPv6 writes it has 96 bits in front.
        let in_front = if written == address { 0 } else { 96 };
        let whole: u32 = if written.is_ipv4() { 32 } else { 128 };
        let length = match length.map(number) {
            None => whole,
            Some(Some(length)) if (in_front..=whole).contains(&length) => length,
            Some(_) => return false,
        };
        let (tree, bits) = self.tree(address);
        tree.add(bits, length - in_front, index);
        true
    }

    /// The lowest index among the networks that the address lies in.
    pub(super) fn find(&self, address: IpAddr) -> Option<usize> {
        match address {
            IpAddr::V4(v4) => self.v4.lowest(u128::from(u32::from(v4)) << 96),
            IpAddr::V6(v6) => self.v6.lowest(v6.into()),
        }
    }

    /// The tree of an address' family, and the address' bits, the first one highest.
    fn tree(&mut self, address: IpAddr) -> (&mut Tree, u128) {
        match address {
            IpAddr::V4(v4) => (&mut self.v4, u128::from(u32::from(v4)) << 96),
            IpAddr::V6(v6) => (&mut self.v6, v6.into()),
        }
    }
}

impl Tree {
    fn add(&mut self, bits: u128, length: u32, index: usize) {
        let mut at = 0;
        for bit in first(bits).take(length as usize) {
            at = match self.0.get(at).and_then(|node| node.children[bit]) {
                Some(child) => child,
                None => {
                    let child = self.0.len();
                    self.0.push(Node::default());
                    if let Some(node) = self.0.get_mut(at) {
                        node.children[bit] = Some(child);
                    }
                    child
                }
            };
        }
        if let Some(node) = self.0.get_mut(at) {
            node.index = Some(node.index.map_or(index, |known| known.min(index)));
        }
    }

    fn lowest(&self, bits: u128) -> Option<usize> {
        let mut bits = first(bits);
        let mut node = self.0.first()?;
        let mut lowest = node.index;
        while let Some(child) = bits.next().and_then(|bit| self.0.get(node.children[bit]?)) {
            node = child;
            lowest = match (lowest, node.index) {
                (Some(known), Some(index)) => Some(known.min(index)),
                (known, index) => known.or(index),
            };
        }
        lowest
    }
}

/// Bits from the highest on.
fn first(bits: u128) -> impl Iterator<Item = usize> {
    (0..128).rev().map(move |at| usize::from(bits >> at & 1 == 1))
}

/// Digits without leading zeros, as Go reads a network's length.
fn number(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits.len() == 1 || !digits.starts_with('0'));
    if plain { digits.parse().ok() } else { None }
}

/// The address in what a header or the host says: with a port behind it or without, in brackets or not.
pub(super) fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim_matches([' ', '\t']);
    let bare = match text.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?.0,
        None => match text.split_once(':') {
            // More than one colon is an IPv6 address, not a port.
            Some((host, port)) if !port.contains(':') => host,
            _ => text,
        },
    };
    bare.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn networks(texts: &[&str]) -> Networks {
        let mut networks = Networks::default();
        texts.iter().enumerate().for_each(|(index, text)| assert!(networks.add(text, index), "{text}"));
        networks
    }

    #[test]
    fn the_first_network_of_the_list_counts_not_the_longest() {
        let networks = networks(&["10.1.0.0/16", "10.0.0.0/8", "10.1.2.3", "0.0.0.0/0", "fd00::/8", "::/0", "::1"]);
        let find = |text: &str| networks.find(text.parse().unwrap());
        assert_eq!(find("10.1.2.3"), Some(0));
        assert_eq!(find("10.2.2.3"), Some(1));
        assert_eq!(find("11.0.0.0"), Some(3));
        assert_eq!(find("fd12::1"), Some(4));
        assert_eq!(find("::1"), Some(5));
        assert_eq!(Networks::default().find("1.2.3.4".parse().unwrap()), None);
    }

    #[test]
    fn host_bits_do_not_count_and_mapped_addresses_are_ipv4() {
        let networks = networks(&["192.168.1.77/24", "::ffff:10.0.0.0/104"]);
        assert_eq!(networks.find("192.168.1.1".parse().unwrap()), Some(0));
        assert_eq!(networks.find("10.200.0.1".parse().unwrap()), Some(1));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0",
            "010.0.0.1",
            "::/129",
            "::1%eth0",
            "10.0.0.0/8/8",
            "x",
            "::ffff:10.0.0.0/95",
            "10.0.0.1:80",
        ] {
            assert!(!Networks::default().add(text, 0), "{text}");
        }
    }

    #[test]
    fn addresses_are_found_with_ports_and_brackets() {
        for (text, expected) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("10.0.0.1:8080", Some("10.0.0.1")),
            (" 10.0.0.1 ", Some("10.0.0.1")),
            ("::1", Some("::1")),
            ("[::1]", Some("::1")),
            ("[::1]:8080", Some("::1")),
            ("2001:DB8:0:0::1", Some("2001:db8::1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("[::ffff:10.0.0.1]:80", Some("10.0.0.1")),
            ("", None),
            ("unknown", None),
            ("[::1", None),
            ("]", None),
            ("10.0.0.256", None),
            ("fe80::1%eth0", None),
        ] {
            let found = address(text.as_bytes()).map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn the_tree_agrees_with_looking_at_each_network() {
        let mut random = Random(13);
        for _ in 0..2_000 {
            let v4 = random.one_in(2);
            let byte = |random: &mut Random| *random.pick(&[0_u8, 1, 127, 128, 255]);
            let any = |random: &mut Random| -> IpAddr {
                let mut octets = [0; 16];
                octets.iter_mut().for_each(|octet| *octet = byte(random));
                if v4 { IpAddr::from([octets[0], octets[1], octets[2], octets[3]]) } else { IpAddr::from(octets) }
            };
            let whole = if v4 { 32 } else { 128 };
            let list: Vec<(IpAddr, usize)> =
                (0..random.below(12)).map(|_| (any(&mut random), random.below(whole + 1))).collect();
            let mut networks = Networks::default();
            for (index, (address, length)) in list.iter().enumerate() {
                assert!(networks.add(&format!("{address}/{length}"), index));
            }
            let bits = |address: IpAddr| -> Vec<bool> {
                let octets = match address {
                    IpAddr::V4(v4) => v4.octets().to_vec(),
                    IpAddr::V6(v6) => v6.octets().to_vec(),
                };
                octets.iter().flat_map(|octet| (0..8).rev().map(move |at| octet >> at & 1 == 1)).collect()
            };
            let asked = any(&mut random);
            let expected =
                list.iter().position(|(address, length)| bits(*address)[..*length] == bits(asked)[..*length]);
            assert_eq!(networks.find(asked), expected, "{asked} in {list:?}");
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic() {
        let mut random = Random(14);
        let bits = ["1", "255", ".", ":", "::", "[", "]", "/", "8", "f", "%", " ", "\u{e9}", "-", "10.0.0.1", "fd00::"];
        let mut found = 0;
        for _ in 0..20_000 {
            let text: String = (0..random.below(8)).map(|_| *random.pick(&bits)).collect();
            found += usize::from(address(text.as_bytes()).is_some());
            let _ = Networks::default().add(&text, 0);
        }
        assert!(found > 200, "{found}");
    }
}
