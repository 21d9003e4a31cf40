//! The fields of messages between nodes ([`super::wire`]): how each kind is written, and read from bytes
//! that may be anything.

use bytes::Bytes;
use springhead_log::{EpochRecord, RawPosition};
use springhead_proto::{Epoch, Lsn};

use super::wire::{BaseHave, BasePart, Identity, Verdict};

pub fn put_u32(out: &mut Vec<u8>, number: usize) {
    let number = u32::try_from(number).expect("lists and texts are bounded");
    out.extend_from_slice(&number.to_le_bytes());
}

pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, bytes.len());
    out.extend_from_slice(bytes);
}

pub fn put_epoch(out: &mut Vec<u8>, record: &EpochRecord) {
    out.extend_from_slice(&record.epoch.0.to_le_bytes());
    out.extend_from_slice(&record.number.to_le_bytes());
    out.extend_from_slice(&record.history_id.to_le_bytes());
    out.extend_from_slice(&record.fork_lsn.0.to_le_bytes());
}

pub fn put_epochs(out: &mut Vec<u8>, epochs: &[EpochRecord]) {
    put_u32(out, epochs.len());
    for record in epochs {
        put_epoch(out, record);
    }
}

pub fn put_position(out: &mut Vec<u8>, position: RawPosition) {
    out.extend_from_slice(&position.segment.to_le_bytes());
    out.extend_from_slice(&position.offset.to_le_bytes());
    out.extend_from_slice(&position.crc.to_le_bytes());
    out.extend_from_slice(&position.lsn.0.to_le_bytes());
}

pub fn put_identity(out: &mut Vec<u8>, identity: &Identity) {
    put_bytes(out, identity.name.as_bytes());
    put_bytes(out, identity.address.as_bytes());
    out.extend_from_slice(&identity.cluster_id.to_le_bytes());
    put_epochs(out, &identity.epochs);
    put_position(out, identity.written);
    out.extend_from_slice(&identity.durable.0.to_le_bytes());
    out.push(u8::from(identity.is_primary));
    put_bytes(out, identity.primary.as_bytes());
    out.extend_from_slice(&identity.promised.to_le_bytes());
}

pub fn put_verdict(out: &mut Vec<u8>, verdict: &Verdict) {
    match verdict {
        Verdict::Stream => out.push(0),
        Verdict::Truncate { after, why } => {
            out.push(1);
            out.extend_from_slice(&after.0.to_le_bytes());
            put_bytes(out, why.as_bytes());
        }
        Verdict::BaseBackup { why } => {
            out.push(2);
            put_bytes(out, why.as_bytes());
        }
        Verdict::Refused { why } => {
            out.push(3);
            put_bytes(out, why.as_bytes());
        }
        Verdict::NotPrimary { primary } => {
            out.push(4);
            put_bytes(out, primary.as_bytes());
        }
    }
}

pub fn put_base_have(out: &mut Vec<u8>, have: &BaseHave) {
    out.extend_from_slice(&have.history_id.to_le_bytes());
    out.extend_from_slice(&have.start.0.to_le_bytes());
    out.extend_from_slice(&have.copies.to_le_bytes());
    out.extend_from_slice(&have.through.0.to_le_bytes());
    put_u32(out, have.files.len());
    for path in &have.files {
        put_bytes(out, path.as_bytes());
    }
    out.push(u8::from(have.part.is_some()));
    if let Some(part) = &have.part {
        put_bytes(out, part.path.as_bytes());
        out.extend_from_slice(&part.bytes.to_le_bytes());
        out.extend_from_slice(&part.crc.to_le_bytes());
    }
    out.push(u8::from(have.log.is_some()));
    if let Some(log) = have.log {
        put_position(out, log);
    }
}

/// A message's fields, read one after the other.
pub struct Fields<'a> {
    pub body: &'a Bytes,
    pub at: usize,
}

impl Fields<'_> {
    pub fn take(&mut self, length: usize) -> Option<&[u8]> {
        let end = self.at.checked_add(length)?;
        let bytes = self.body.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn lsn(&mut self) -> Option<Lsn> {
        self.u64().map(Lsn)
    }

    /// The length of a list whose items take at least `least` bytes each.
    pub fn count(&mut self, least: usize) -> Option<usize> {
        let count = usize::try_from(self.u32()?).ok()?;
        (count.checked_mul(least)? <= self.body.len() - self.at).then_some(count)
    }

    /// Shares the message's memory.
    pub fn bytes(&mut self) -> Option<Bytes> {
        let length = self.count(1)?;
        let from = self.at;
        self.at += length;
        Some(self.body.slice(from..self.at))
    }

    pub fn text(&mut self) -> Option<String> {
        let bytes = self.bytes()?;
        std::str::from_utf8(&bytes).ok().map(str::to_owned)
    }

    pub fn epoch(&mut self) -> Option<EpochRecord> {
        Some(EpochRecord {
            epoch: Epoch(self.u32()?),
            number: self.u32()?,
            history_id: self.array().map(u128::from_le_bytes)?,
            fork_lsn: self.lsn()?,
        })
    }

    pub fn epochs(&mut self) -> Option<Vec<EpochRecord>> {
        let count = self.count(32)?;
        (0..count).map(|_| self.epoch()).collect()
    }

    pub fn position(&mut self) -> Option<RawPosition> {
        Some(RawPosition {
            segment: self.u32()?,
            offset: self.u64()?,
            crc: self.u32()?,
            lsn: self.lsn()?,
        })
    }

    pub fn identity(&mut self) -> Option<Identity> {
        Some(Identity {
            name: self.text()?,
            address: self.text()?,
            cluster_id: self.array().map(u128::from_le_bytes)?,
            epochs: self.epochs()?,
            written: self.position()?,
            durable: self.lsn()?,
            is_primary: self.flag()?,
            primary: self.text()?,
            promised: self.u32()?,
        })
    }

    pub fn base_have(&mut self) -> Option<BaseHave> {
        Some(BaseHave {
            history_id: self.array().map(u128::from_le_bytes)?,
            start: self.lsn()?,
            copies: self.u64()?,
            through: self.lsn()?,
            files: {
                let count = self.count(4)?;
                (0..count).map(|_| self.text()).collect::<Option<_>>()?
            },
            part: if self.flag()? {
                Some(BasePart {
                    path: self.text()?,
                    bytes: self.u64()?,
                    crc: self.u32()?,
                })
            } else {
                None
            },
            log: if self.flag()? {
                Some(self.position()?)
            } else {
                None
            },
        })
    }

    pub fn verdict(&mut self) -> Option<Verdict> {
        Some(match self.u8()? {
            0 => Verdict::Stream,
            1 => Verdict::Truncate {
                after: self.lsn()?,
                why: self.text()?,
            },
            2 => Verdict::BaseBackup { why: self.text()? },
            3 => Verdict::Refused { why: self.text()? },
            4 => Verdict::NotPrimary {
                primary: self.text()?,
            },
            _ => return None,
        })
    }
}
