//! The POSIX tar format (ustar, with GNU's binary sizes for files of 8 GiB and more), as much of it as
//! a backup needs: plain files. So a backup can be taken with any HTTP client and unpacked with `tar`.
//!
//! ```text
//! archive := (header:512 bytes, zeros to a multiple of 512)* zeros:1024
//! header  :=   0 name:100   100 mode:8   108 uid:8   116 gid:8   124 size:12   136 mtime:12
//!            148 checksum:8 156 type:1   157 link:100  257 "ustar\0" "00"  …zeros
//! ```

/// All lengths are multiples of this.
pub const BLOCK: usize = 512;

/// A file's header.
///
/// # Panics
/// If the path is over 100 bytes, which none of a backup is.
#[must_use]
pub fn header(path: &str, bytes: u64, mtime_s: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    assert!(path.len() <= 100, "a backup's paths are short");
    block[..path.len()].copy_from_slice(path.as_bytes());
    put_octal(&mut block[100..108], 0o600);
    put_octal(&mut block[108..116], 0);
    put_octal(&mut block[116..124], 0);
    if bytes < 1 << 33 {
        put_octal(&mut block[124..136], bytes);
    } else {
        block[124] = 0x80;
        block[128..136].copy_from_slice(&bytes.to_be_bytes());
    }
    put_octal(&mut block[136..148], mtime_s);
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum = checksum(&block);
    put_octal(&mut block[148..155], u64::from(sum));
    block[155] = b' ';
    block
}

/// Zeros behind a file of that many bytes.
#[must_use]
pub fn padding(bytes: u64) -> usize {
    let over = usize::try_from(bytes % BLOCK as u64).expect("under 512");
    (BLOCK - over) % BLOCK
}

/// What ends an archive.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// What a header says: a file's path and length; `None` for the end of the archive.
///
/// # Errors
/// A word on what is wrong.
pub fn read_header(block: &[u8; BLOCK]) -> Result<Option<(String, u64)>, &'static str> {
    if block.iter().all(|&byte| byte == 0) {
        return Ok(None);
    }
    if octal(&block[148..156]) != Some(u64::from(checksum(block))) {
        return Err("a header's checksum does not match");
    }
    if block[156] != b'0' && block[156] != 0 {
        return Err("there is something in it that is no file");
    }
    let end = block[..100]
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(100);
    let path = std::str::from_utf8(&block[..end]).map_err(|_| "a name is no UTF-8")?;
    let size = &block[124..136];
    let bytes = if size[0] == 0x80 {
        u64::from_be_bytes(size[4..12].try_into().expect("eight bytes"))
    } else {
        octal(size).ok_or("a length is no number")?
    };
    Ok(Some((path.to_owned(), bytes)))
}

/// The sum of the bytes, those of the checksum itself taken as blanks.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..])
}

/// In octal digits, ended by a zero.
fn put_octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    field[..digits].copy_from_slice(text.as_bytes());
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    u64::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back() {
        for bytes in [0, 1, 511, 512, (1 << 33) - 1, 1 << 33, 1 << 45] {
            let block = header("tenants/0000000001/state.db", bytes, 1_800_000_000);
            let read = read_header(&block);
            assert_eq!(
                read,
                Ok(Some(("tenants/0000000001/state.db".to_owned(), bytes)))
            );
        }
        assert_eq!(
            (padding(0), padding(1), padding(512), padding(513)),
            (0, 511, 0, 511)
        );
    }

    #[test]
    fn g12_a_flipped_bit_in_a_header_is_found() {
        let block = header("log/epochs", 100, 0);
        for at in 0..BLOCK {
            let mut flipped = block;
            flipped[at] ^= 1;
            assert!(read_header(&flipped).is_err(), "byte {at}");
        }
        assert_eq!(read_header(&[0; BLOCK]), Ok(None));
    }
}
