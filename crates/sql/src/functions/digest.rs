//! md5, the SHA-2 family, encode and decode.

use springhead_proto::{Value, ValueRef};

use super::Scalar;
use super::support::{
    Args, Outcome, blob, bounded, int, invalid_parameter, mismatch, strict, text, text_value,
};
use crate::types::bytea;

pub(super) const SCALARS: &[Scalar] = &[
    // A text or bytes.
    strict!("sh_md5", 1, |args| {
        let mut hex = Vec::with_capacity(32);
        bytea::write_hex(&md5(bytes(args)?), &mut hex);
        text_value(hex)
    }),
    strict!("sh_sha256", 1, |args| Ok(Value::Blob(
        sha256(bytes(args)?).to_vec()
    ))),
    strict!("sh_encode", 2, |args| encode(
        blob(args, 0)?,
        text(args, 1)?
    )),
    strict!("sh_decode", 2, |args| decode(
        text(args, 0)?,
        text(args, 1)?
    )),
    strict!("sh_convert_from", 2, |args| {
        utf8(text(args, 1)?)?;
        text_value(blob(args, 0)?.to_vec())
    }),
    strict!("sh_convert_to", 2, |args| {
        utf8(text(args, 1)?)?;
        Ok(Value::Blob(text(args, 0)?.as_bytes().to_vec()))
    }),
    // bytes, from 1, length or -1 for the rest
    strict!("sh_get_byte", 2, |args| {
        let bytes = blob(args, 0)?;
        let at = int(args, 1)?;
        usize::try_from(at)
            .ok()
            .and_then(|at| bytes.get(at))
            .map(|byte| Value::Integer((*byte).into()))
            .ok_or_else(|| {
                invalid_parameter(format!(
                    "index {at} out of valid range, 0..{}",
                    bytes.len().saturating_sub(1)
                ))
            })
    }),
];

fn bytes<'v>(args: Args<'_, 'v>) -> Result<&'v [u8], springhead_proto::SqlError> {
    match args.first() {
        Some(ValueRef::Text(text)) => Ok(text.as_bytes()),
        Some(ValueRef::Blob(bytes)) => Ok(bytes),
        other => Err(mismatch(other, 0, "a text or bytes")),
    }
}

fn utf8(name: &str) -> Result<(), springhead_proto::SqlError> {
    if name.eq_ignore_ascii_case("utf8") || name.eq_ignore_ascii_case("utf-8") {
        Ok(())
    } else {
        Err(springhead_proto::SqlError::unsupported(format_args!(
            "the encoding \"{name}\""
        )))
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn encode(bytes: &[u8], format: &str) -> Outcome {
    bounded(bytes.len().saturating_mul(4))?;
    let mut out = Vec::new();
    match format.to_ascii_lowercase().as_str() {
        "hex" => bytea::write_hex(bytes, &mut out),
        "base64" => {
            for chunk in bytes.chunks(3) {
                // A line break after each 76 characters, as PostgreSQL (and MIME) has it.
                if out.len() % 77 == 76 {
                    out.push(b'\n');
                }
                let [a, b, c] = [0, 1, 2].map(|at| chunk.get(at).copied().unwrap_or(0));
                let group = [
                    a >> 2,
                    (a & 3) << 4 | b >> 4,
                    (b & 15) << 2 | c >> 6,
                    c & 63,
                ];
                for (at, six) in group.into_iter().enumerate() {
                    out.push(if at <= chunk.len() {
                        BASE64[usize::from(six)]
                    } else {
                        b'='
                    });
                }
            }
        }
        "escape" => {
            for &byte in bytes {
                match byte {
                    0 | 0x80.. => out.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
                    b'\\' => out.extend_from_slice(b"\\\\"),
                    _ => out.push(byte),
                }
            }
        }
        other => {
            return Err(invalid_parameter(format!(
                "unrecognized encoding: \"{other}\""
            )));
        }
    }
    text_value(out)
}

fn decode(text: &str, format: &str) -> Outcome {
    match format.to_ascii_lowercase().as_str() {
        "hex" => bytea::read_hex(text).map(Value::Blob),
        "escape" => bytea::read_escape(text).map(Value::Blob),
        "base64" => {
            let mut out = Vec::with_capacity(text.len() / 4 * 3);
            let (mut bits, mut count, mut padding) = (0u32, 0, 0);
            for byte in text.bytes().filter(|byte| !byte.is_ascii_whitespace()) {
                let six = match BASE64.iter().position(|&digit| digit == byte) {
                    Some(six) if padding == 0 => u32::try_from(six).unwrap_or(0),
                    None if byte == b'=' && count % 4 >= 2 => {
                        padding += 1;
                        0
                    }
                    _ => {
                        return Err(invalid_parameter(format!(
                            "invalid symbol \"{}\" found while decoding base64 sequence",
                            char::from(byte)
                        )));
                    }
                };
                bits = bits << 6 | six;
                count += 1;
                if count % 4 == 0 {
                    let [_, a, b, c] = bits.to_be_bytes();
                    out.extend_from_slice(&[a, b, c][..3 - padding.min(2)]);
                    bits = 0;
                }
            }
            if count % 4 != 0 {
                return Err(invalid_parameter("invalid base64 end sequence"));
            }
            Ok(Value::Blob(out))
        }
        other => Err(invalid_parameter(format!(
            "unrecognized encoding: \"{other}\""
        ))),
    }
}

/// The message padded to whole blocks of 64 bytes, with its length in bits at the end.
fn padded(message: &[u8], length: [u8; 8]) -> Vec<u8> {
    let mut padded = message.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend(length);
    padded
}

/// RFC 1321.
fn md5(message: &[u8]) -> [u8; 16] {
    const SHIFTS: [[u32; 4]; 4] = [
        [7, 12, 17, 22],
        [5, 9, 14, 20],
        [4, 11, 16, 23],
        [6, 10, 15, 21],
    ];
    // floor(2^32 × |sin(i + 1)|)
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 2^32"
    )]
    let constants: [u32; 64] = std::array::from_fn(|i| {
        ((f64::from(u32::try_from(i).unwrap_or(0)) + 1.0).sin().abs() * 4_294_967_296.0) as u32
    });
    let bits = (message.len() as u64).wrapping_mul(8);
    let mut state = [0x6745_2301_u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    for block in padded(message, bits.to_le_bytes()).chunks_exact(64) {
        let word = |at: usize| {
            u32::from_le_bytes([
                block[at * 4],
                block[at * 4 + 1],
                block[at * 4 + 2],
                block[at * 4 + 3],
            ])
        };
        let [mut a, mut b, mut c, mut d] = state;
        for (i, constant) in constants.iter().enumerate() {
            let (mix, at) = match i / 16 {
                0 => ((b & c) | (!b & d), i),
                1 => ((d & b) | (!d & c), (5 * i + 1) % 16),
                2 => (b ^ c ^ d, (3 * i + 5) % 16),
                _ => (c ^ (b | !d), (7 * i) % 16),
            };
            let sum = a
                .wrapping_add(mix)
                .wrapping_add(*constant)
                .wrapping_add(word(at));
            (a, d, c) = (d, c, b);
            b = b.wrapping_add(sum.rotate_left(SHIFTS[i / 16][i % 4]));
        }
        for (sum, part) in state.iter_mut().zip([a, b, c, d]) {
            *sum = sum.wrapping_add(part);
        }
    }
    let mut digest = [0; 16];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    digest
}

/// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
const SHA256: [u32; 64] = [
    0x428a_2f98,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a4,
    0xab1c_5ed5,
    0xd807_aa98,
    0x1283_5b01,
    0x2431_85be,
    0x550c_7dc3,
    0x72be_5d74,
    0x80de_b1fe,
    0x9bdc_06a7,
    0xc19b_f174,
    0xe49b_69c1,
    0xefbe_4786,
    0x0fc1_9dc6,
    0x240c_a1cc,
    0x2de9_2c6f,
    0x4a74_84aa,
    0x5cb0_a9dc,
    0x76f9_88da,
    0x983e_5152,
    0xa831_c66d,
    0xb003_27c8,
    0xbf59_7fc7,
    0xc6e0_0bf3,
    0xd5a7_9147,
    0x06ca_6351,
    0x1429_2967,
    0x27b7_0a85,
    0x2e1b_2138,
    0x4d2c_6dfc,
    0x5338_0d13,
    0x650a_7354,
    0x766a_0abb,
    0x81c2_c92e,
    0x9272_2c85,
    0xa2bf_e8a1,
    0xa81a_664b,
    0xc24b_8b70,
    0xc76c_51a3,
    0xd192_e819,
    0xd699_0624,
    0xf40e_3585,
    0x106a_a070,
    0x19a4_c116,
    0x1e37_6c08,
    0x2748_774c,
    0x34b0_bcb5,
    0x391c_0cb3,
    0x4ed8_aa4a,
    0x5b9c_ca4f,
    0x682e_6ff3,
    0x748f_82ee,
    0x78a5_636f,
    0x84c8_7814,
    0x8cc7_0208,
    0x90be_fffa,
    0xa450_6ceb,
    0xbef9_a3f7,
    0xc671_78f2,
];

/// FIPS 180-4.
fn sha256(message: &[u8]) -> [u8; 32] {
    let bits = (message.len() as u64).wrapping_mul(8);
    let mut state = [
        0x6a09_e667_u32,
        0xbb67_ae85,
        0x3c6e_f372,
        0xa54f_f53a,
        0x510e_527f,
        0x9b05_688c,
        0x1f83_d9ab,
        0x5be0_cd19,
    ];
    for block in padded(message, bits.to_be_bytes()).chunks_exact(64) {
        let mut words = [0u32; 64];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        for i in 16..64 {
            let (x, y) = (words[i - 15], words[i - 2]);
            let low = x.rotate_right(7) ^ x.rotate_right(18) ^ (x >> 3);
            let high = y.rotate_right(17) ^ y.rotate_right(19) ^ (y >> 10);
            words[i] = words[i - 16]
                .wrapping_add(low)
                .wrapping_add(words[i - 7])
                .wrapping_add(high);
        }
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = state;
        for (constant, word) in SHA256.iter().zip(words) {
            let high = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let choice = (e & f) ^ (!e & g);
            let first = h
                .wrapping_add(high)
                .wrapping_add(choice)
                .wrapping_add(*constant)
                .wrapping_add(word);
            let low = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let second = low.wrapping_add((a & b) ^ (a & c) ^ (b & c));
            (h, g, f, e) = (g, f, e, d.wrapping_add(first));
            (d, c, b, a) = (c, b, a, first.wrapping_add(second));
        }
        for (sum, part) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *sum = sum.wrapping_add(part);
        }
    }
    let mut digest = [0; 32];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}
