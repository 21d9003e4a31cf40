//! The checksum of one page. The layout is drawn in the module above.

use super::RESERVED;

const SUM: usize = RESERVED as usize;

/// Whether SQLite has pages of this size.
pub fn is_page_size(bytes: usize) -> bool {
    (512..=65536).contains(&bytes) && bytes.is_power_of_two()
}

/// The number of the page that `bytes` bytes at `offset` are, if they are one. Pages count from 1.
pub fn number_at(bytes: usize, offset: u64) -> Option<u32> {
    let size = u64::try_from(bytes).ok()?;
    if !is_page_size(bytes) || !offset.is_multiple_of(size) {
        return None;
    }
    u32::try_from(offset / size).ok()?.checked_add(1)
}

/// The checksum of the whole `page` but its last 8 bytes, at place `number`.
pub fn checksum(page: &[u8], number: u32) -> u64 {
    let content = &page[..page.len() - SUM];
    let (front, back) = content.split_at(page.len() / 2);
    let front = crc32c::crc32c_append(number, front);
    let back = crc32c::crc32c_append(!number, back);
    u64::from(front) | u64::from(back) << 32
}

/// Writes the checksum to the end of `page`.
pub fn seal(page: &mut [u8], number: u32) {
    let sum = checksum(page, number).to_le_bytes();
    let end = page.len();
    page[end - SUM..].copy_from_slice(&sum);
}

/// Whether `page` ends in its checksum.
pub fn is_intact(page: &[u8], number: u32) -> bool {
    page[page.len() - SUM..] == checksum(page, number).to_le_bytes()
}
