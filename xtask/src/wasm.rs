//! Reads the imports of a wasm module: bytes in, `module.name` pairs out. Nothing else of the format. Pure.

use anyhow::{Context as _, Result, bail, ensure};

const IMPORT_SECTION: u8 = 2;

/// The imports in the order of the module.
pub(crate) fn imports(module: &[u8]) -> Result<Vec<(String, String)>> {
    ensure!(module.starts_with(b"\0asm\x01\0\0\0"), "this is no wasm module of version 1");
    let mut bytes = &module[8..];
    while !bytes.is_empty() {
        let id = byte(&mut bytes)?;
        let size = number(&mut bytes)?;
        let mut section = take(&mut bytes, size)?;
        if id == IMPORT_SECTION {
            return (0..number(&mut section)?).map(|_| import(&mut section)).collect();
        }
    }
    Ok(Vec::new())
}

fn import(bytes: &mut &[u8]) -> Result<(String, String)> {
    let (module, name) = (text(bytes)?, text(bytes)?);
    match byte(bytes)? {
        0 => {
            number(bytes)?;
        }
        1 => {
            byte(bytes)?;
            limits(bytes)?;
        }
        2 => limits(bytes)?,
        3 => {
            take(bytes, 2)?;
        }
        kind => bail!("the import {module}.{name} is of the unknown kind {kind}"),
    }
    Ok((module, name))
}

fn limits(bytes: &mut &[u8]) -> Result<()> {
    let bounded = byte(bytes)? & 1 == 1;
    number(bytes)?;
    if bounded {
        number(bytes)?;
    }
    Ok(())
}

fn text(bytes: &mut &[u8]) -> Result<String> {
    let length = number(bytes)?;
    Ok(std::str::from_utf8(take(bytes, length)?)?.to_owned())
}

/// An unsigned LEB128 number of at most 32 bits.
fn number(bytes: &mut &[u8]) -> Result<usize> {
    let mut value = 0_u64;
    for shift in (0..35).step_by(7) {
        let part = byte(bytes)?;
        value |= u64::from(part & 0x7f) << shift;
        if part & 0x80 == 0 {
            return Ok(usize::try_from(value)?);
        }
    }
    bail!("a number is longer than 32 bits")
}

fn byte(bytes: &mut &[u8]) -> Result<u8> {
    Ok(take(bytes, 1)?[0])
}

fn take<'a>(bytes: &mut &'a [u8], size: usize) -> Result<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(size).context("the module ends too early")?;
    *bytes = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"\0asm\x01\0\0\0";

    #[test]
    fn imports_of_every_kind_are_read_past_other_sections() {
        let section = [
            b"\x04".as_slice(),
            b"\x03env\x05proxy\x00\x85\x01",
            b"\x03env\x05table\x01\x70\x01\x00\x10",
            b"\x03env\x06memory\x02\x00\x01",
            b"\x01a\x01g\x03\x7f\x00",
        ]
        .concat();
        let size = u8::try_from(section.len()).unwrap();
        let module = [HEAD, b"\x00\x02\x01x", &[IMPORT_SECTION, size], &section].concat();
        let names: Vec<_> = imports(&module).unwrap().into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["proxy", "table", "memory", "g"]);
        assert!(imports(&module[..module.len() - 1]).is_err(), "a truncated module is refused");
    }

    #[test]
    fn a_module_without_imports_has_none() {
        assert_eq!(imports(HEAD).unwrap(), []);
        assert!(imports(b"no module").is_err());
    }
}
