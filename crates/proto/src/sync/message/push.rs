//! Mutations on their way to the server: what they have in common is said once.
//!
//! ```text
//! {"producer": bin16, "generation": 1, "base": "42@9c1e04d7", "schema": 7,
//!  "mutations": [{"seq": 5, "hlc": 112590848000000000, "ops": […]},
//!                {"base": "43@9c1e04d7", "after": [5], "hlc": 65536, "ops": […]}]}
//! ```
//!
//! A mutation's `base` and `schema` are the push's unless it says its own; its `seq` is the one after
//! that of the mutation before it unless it says so; `hlc` is less that of the last one before it that
//! has one (64 bits, wrapping). `after` has the seq of mutations of the same producer and generation,
//! and `[producer, generation, seq]` for others.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Cursor;
use crate::sync::{
    CatalogVersion, Generation, Hlc, Mutation, MutationId, Operation, ProducerId, Seq,
};

/// See the module. Seqs ascend; producer and generation of all are the push's.
#[derive(Debug, Clone, PartialEq)]
pub struct Push {
    pub producer: ProducerId,
    pub generation: Generation,
    pub mutations: Vec<Mutation>,
}

#[derive(Serialize, Deserialize)]
struct WirePush {
    producer: ProducerId,
    generation: Generation,
    base: Cursor,
    schema: CatalogVersion,
    mutations: Vec<WireMutation>,
}

#[derive(Serialize, Deserialize)]
struct WireMutation {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seq: Option<Seq>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<Cursor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schema: Option<CatalogVersion>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    after: Vec<Dependency>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hlc: Option<i64>,
    ops: Vec<Operation>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Dependency {
    Own(Seq),
    Other(ProducerId, Generation, Seq),
}

impl Serialize for Push {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let first = self.mutations.first();
        let base = first.map_or(NO_BASE, |first| first.base);
        let schema = first.map_or(CatalogVersion(0), |first| first.schema_version);
        let (mut due, mut clock) = (Seq::ZERO, Hlc::default());
        let wire = |mutation: &Mutation| WireMutation {
            seq: (mutation.seq
                != std::mem::replace(&mut due, Seq(mutation.seq.0.saturating_add(1))))
            .then_some(mutation.seq),
            base: (mutation.base != base).then_some(mutation.base),
            schema: (mutation.schema_version != schema).then_some(mutation.schema_version),
            after: mutation
                .after
                .iter()
                .map(|id| self.dependency(id))
                .collect(),
            hlc: mutation.hlc.map(|hlc| {
                let before = std::mem::replace(&mut clock, hlc);
                hlc.0.wrapping_sub(before.0).cast_signed()
            }),
            ops: mutation.operations.clone(),
        };
        WirePush {
            producer: self.producer,
            generation: self.generation,
            base,
            schema,
            mutations: self.mutations.iter().map(wire).collect(),
        }
        .serialize(serializer)
    }
}

const NO_BASE: Cursor = Cursor {
    lsn: crate::Lsn::ZERO,
    epoch: None,
};

impl Push {
    fn dependency(&self, id: &MutationId) -> Dependency {
        if (id.producer, id.generation) == (self.producer, self.generation) {
            Dependency::Own(id.seq)
        } else {
            Dependency::Other(id.producer, id.generation, id.seq)
        }
    }
}

impl<'de> Deserialize<'de> for Push {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Push, D::Error> {
        let wire = WirePush::deserialize(deserializer)?;
        let (producer, generation) = (wire.producer, wire.generation);
        let (mut last, mut clock) = (Seq::ZERO, Hlc::default());
        let mut mutations = Vec::new();
        for mutation in wire.mutations {
            let seq = match mutation.seq {
                Some(seq) => seq,
                None if last == Seq::ZERO => {
                    return Err(D::Error::custom("the first mutation of a push has no seq"));
                }
                None => Seq(last.0.saturating_add(1)),
            };
            if seq <= last {
                return Err(D::Error::custom("the seqs of a push do not ascend from 1"));
            }
            last = seq;
            let hlc = mutation.hlc.map(|less| {
                clock = Hlc(clock.0.wrapping_add_signed(less));
                clock
            });
            if mutation.ops.is_empty() {
                return Err(D::Error::custom("a mutation without an operation"));
            }
            let after = mutation
                .after
                .into_iter()
                .map(|dependency| match dependency {
                    Dependency::Own(seq) => MutationId {
                        producer,
                        generation,
                        seq,
                    },
                    Dependency::Other(producer, generation, seq) => MutationId {
                        producer,
                        generation,
                        seq,
                    },
                });
            mutations.push(Mutation {
                producer,
                generation,
                seq,
                base: mutation.base.unwrap_or(wire.base),
                schema_version: mutation.schema.unwrap_or(wire.schema),
                after: after.collect(),
                hlc,
                operations: mutation.ops,
            });
        }
        Ok(Push {
            producer,
            generation,
            mutations,
        })
    }
}
