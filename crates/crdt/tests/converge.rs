//! G9: edits of several people, delivered in any order and more than once, come to the same content;
//! bytes from outside that are no updates are refused and change nothing.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use proptest::prelude::*;
use serde_json::Value as Json;
use springhead_crdt::{
    Cell, Client, Content, CrdtError, Edit, Kind, Limits, is_nothing, state, update_between,
};

const LIMITS: Limits = Limits {
    state_bytes: 1 << 20,
    merge_updates: 3,
};

/// One who edits: keeps a state as bytes, as rows do.
struct Replica {
    client: Client,
    state: Option<Vec<u8>>,
}

fn text(text: &str) -> Content {
    Content::Text(text.to_owned())
}

fn insert(at: usize, text: &str) -> Edit {
    Edit::Insert {
        at,
        text: text.to_owned(),
    }
}

impl Replica {
    fn new(number: u64) -> Replica {
        Replica {
            client: Client::new(number),
            state: None,
        }
    }

    fn open(&self, seed: &Content) -> Cell {
        Cell::open(seed.kind(), self.state.as_deref(), Some(seed), self.client).unwrap()
    }

    fn content(&self, seed: &Content) -> Content {
        self.open(seed).content().unwrap()
    }

    fn edit(&mut self, seed: &Content, edits: &[Edit]) -> Vec<u8> {
        let mut cell = self.open(seed);
        let update = cell.edit(edits).unwrap();
        self.state = cell.save(&LIMITS).unwrap();
        update
    }

    fn merge(&mut self, seed: &Content, update: &[u8]) -> Result<bool, CrdtError> {
        let mut cell = self.open(seed);
        let is_new = cell.merge(update)?;
        self.state = cell.save(&LIMITS)?;
        Ok(is_new)
    }
}

#[test]
fn g9_two_who_edit_the_same_text_both_keep_what_they_wrote() {
    let seed = text("milk and bread");
    let (mut one, mut two) = (Replica::new(1), Replica::new(2));
    let first = one.edit(&seed, &[insert(4, ", eggs")]);
    let second = two.edit(
        &seed,
        &[Edit::Delete { at: 9, length: 5 }, insert(9, "rye")],
    );
    assert_eq!(one.merge(&seed, &second), Ok(true));
    assert_eq!(two.merge(&seed, &first), Ok(true));
    assert_eq!(one.content(&seed), text("milk, eggs and rye"));
    assert_eq!(two.content(&seed), one.content(&seed));
    // Told twice, it counts once.
    assert_eq!(one.merge(&seed, &second), Ok(false));
    assert_eq!(one.content(&seed), text("milk, eggs and rye"));
}

#[test]
fn a_replacement_leaves_what_others_write_outside_of_it() {
    let seed = text("one two three");
    let (one, mut two) = (Replica::new(1), Replica::new(2));
    let edit = two.edit(&seed, &[insert(13, " four")]);
    let mut cell = one.open(&seed);
    cell.replace(&text("one 2 three")).unwrap();
    cell.merge(&edit).unwrap();
    assert_eq!(cell.content().unwrap(), text("one 2 three four"));
    let same = cell.replace(&text("one 2 three four")).unwrap();
    assert!(is_nothing(&same));
}

#[test]
fn characters_beyond_the_basic_plane_count_as_one() {
    let seed = text("a😀b");
    let mut one = Replica::new(1);
    one.edit(&seed, &[insert(2, "é"), Edit::Delete { at: 1, length: 1 }]);
    assert_eq!(one.content(&seed), text("aéb"));
    let beyond = one.open(&seed).edit(&[insert(4, "x")]);
    assert_eq!(beyond, Err(CrdtError::OutOfRange { at: 4, length: 3 }));
}

#[test]
fn lists_merge_by_element() {
    let list = |json: &str| Content::List(serde_json::from_str(json).unwrap());
    let seed = list(r#"["a",{"n":1},2.5]"#);
    let (mut one, mut two) = (Replica::new(1), Replica::new(2));
    let edit = |at, json: &str| Edit::InsertElements {
        at,
        elements: serde_json::from_str(json).unwrap(),
    };
    let first = one.edit(&seed, &[edit(0, "[null,true]")]);
    let second = two.edit(
        &seed,
        &[Edit::Delete { at: 1, length: 1 }, edit(2, r#"["z"]"#)],
    );
    one.merge(&seed, &second).unwrap();
    two.merge(&seed, &first).unwrap();
    assert_eq!(one.content(&seed), list(r#"[null,true,"a",2.5,"z"]"#));
    assert_eq!(two.content(&seed), one.content(&seed));
}

#[test]
fn g9_an_update_that_rests_on_what_is_not_there_is_refused() {
    let seed = text("");
    let mut one = Replica::new(1);
    let first = one.edit(&seed, &[insert(0, "a")]);
    let second = one.edit(&seed, &[insert(1, "b")]);
    let mut two = Replica::new(2);
    assert_eq!(two.merge(&seed, &second), Err(CrdtError::Missing));
    assert_eq!(two.content(&seed), text(""));
    // One that rests on nothing of what is left out, too: a client's edits have no gaps.
    let third = one.edit(&seed, &[Edit::Delete { at: 0, length: 2 }, insert(0, "c")]);
    assert_eq!(two.merge(&seed, &third), Err(CrdtError::Missing));
    two.merge(&seed, &first).unwrap();
    two.merge(&seed, &second).unwrap();
    assert_eq!(two.content(&seed), text("ab"));
    // Of another seed as well: it is another text.
    let mut other = Replica::new(3);
    let edit = other.edit(&text("other"), &[insert(5, "!")]);
    assert_eq!(one.merge(&seed, &edit), Err(CrdtError::Missing));
}

#[test]
fn what_is_no_update_of_the_column_is_refused() {
    let seed = text("x");
    let mut one = Replica::new(1);
    let list = Content::List(vec![Json::Null]);
    let of_a_list = Replica::new(2).edit(
        &Content::List(Vec::new()),
        &[Edit::InsertElements {
            at: 0,
            elements: vec![Json::Null],
        }],
    );
    for update in [&b""[..], b"\x01", b"hello", &of_a_list] {
        let refused = one.merge(&seed, update);
        assert!(
            matches!(refused, Err(CrdtError::Malformed(_))),
            "{refused:?}"
        );
    }
    assert_eq!(one.content(&seed), text("x"));
    let wrong = one.open(&seed).replace(&list);
    assert_eq!(wrong, Err(CrdtError::WrongKind));
}

#[test]
fn a_state_has_a_limit_and_forgets_what_was_deleted() {
    let seed = text("");
    let mut one = Replica::new(1);
    for _ in 0..200 {
        one.edit(&seed, &[insert(0, "0123456789")]);
        one.edit(&seed, &[Edit::Delete { at: 0, length: 10 }]);
    }
    let state = one.state.clone().unwrap();
    assert!(state.len() < 200, "{}", state.len());
    assert!(state::blocks(&state).unwrap().len() <= 3);
    let mut cell = one.open(&seed);
    cell.edit(&[insert(0, &"x".repeat(500))]).unwrap();
    let limits = Limits {
        state_bytes: 400,
        merge_updates: 3,
    };
    assert_eq!(
        cell.save(&limits),
        Err(CrdtError::TooLarge { limit_bytes: 400 })
    );
}

#[test]
fn the_difference_of_two_states_is_an_update() {
    let seed = text("seed");
    let mut one = Replica::new(1);
    one.edit(&seed, &[insert(4, "s")]);
    let before = one.state.clone();
    one.edit(&seed, &[insert(0, "re")]);
    let after = one.state.clone().unwrap();
    let update = update_between(Kind::Text, (before.as_deref(), Some(&seed)), &after).unwrap();
    let mut two = Replica::new(2);
    two.state = before;
    two.merge(&seed, &update).unwrap();
    assert_eq!(two.content(&seed), text("reseeds"));
    // From the seed on, too.
    let update = update_between(Kind::Text, (None, Some(&seed)), &after).unwrap();
    let mut three = Replica::new(3);
    three.merge(&seed, &update).unwrap();
    assert_eq!(three.content(&seed), text("reseeds"));
}

/// What the TypeScript client is tested with as well (`clients/js/test/crdt.test.ts`).
#[test]
fn golden_bytes_are_what_other_languages_make_and_read() {
    let golden: Vec<Json> = serde_json::from_str(include_str!("golden/cells.json")).unwrap();
    assert!(golden.len() >= 4);
    for case in golden {
        let seed = match &case["seed"] {
            Json::String(text) => Content::Text(text.clone()),
            Json::Array(elements) => Content::List(elements.clone()),
            other => panic!("{other}"),
        };
        let mut one = Replica::new(case["client"].as_u64().unwrap());
        let edit = match &case["insert"] {
            Json::String(text) => insert(0, text),
            elements => Edit::InsertElements {
                at: 0,
                elements: elements.as_array().unwrap().clone(),
            },
        };
        let update = hex(&one.edit(&seed, &[edit]));
        let state = hex(one.state.as_ref().unwrap());
        if std::env::var_os("GOLDEN_PRINT").is_some() {
            println!("{{\"update\": \"{update}\", \"state\": \"{state}\"}}");
            continue;
        }
        assert_eq!(Json::String(update), case["update"], "{case}");
        assert_eq!(Json::String(state), case["state"], "{case}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What somebody does next, by numbers that are brought into range where they are used.
#[derive(Debug, Clone)]
struct Step {
    who: usize,
    kind: u8,
    at: usize,
    length: usize,
    text: String,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (
        0..3_usize,
        0..5_u8,
        any::<u16>(),
        1..6_usize,
        "[a-zé😀]{1,5}",
    )
        .prop_map(|(who, kind, at, length, text)| Step {
            who,
            kind,
            at: usize::from(at),
            length,
            text,
        });
    proptest::collection::vec(step, 1..40)
}

/// The edit that a step comes to in a content of `length`.
fn edit_of(step: &Step, kind: Kind, length: usize) -> Edit {
    let at = step.at % (length + 1);
    match (step.kind, kind) {
        (0, _) if length > 0 => Edit::Delete {
            at: step.at % length,
            length: step.length.min(length - step.at % length),
        },
        (_, Kind::Text) => insert(at, &step.text),
        (_, Kind::List) => Edit::InsertElements {
            at,
            elements: vec![Json::String(step.text.clone()); step.length % 3 + 1],
        },
    }
}

fn length_of(content: &Content) -> usize {
    match content {
        Content::Text(text) => text.chars().count(),
        Content::List(elements) => elements.len(),
    }
}

/// Three who edit and now and then hear of each other; what is heard too early is heard again.
fn converge(seed: &Content, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut replicas: Vec<Replica> = (1..=3).map(|number| Replica::new(number * 1000)).collect();
    let mut updates: Vec<Vec<u8>> = Vec::new();
    for step in steps {
        let who = &mut replicas[step.who];
        if step.kind == 4 && !updates.is_empty() {
            let heard = &updates[step.at % updates.len()];
            match who.merge(seed, heard) {
                Ok(_) | Err(CrdtError::Missing) => {}
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            }
            continue;
        }
        let length = length_of(&who.content(seed));
        updates.push(who.edit(seed, &[edit_of(step, seed.kind(), length)]));
    }
    // Everything reaches everyone in the end, backwards for one of them, until nothing is missing.
    for (place, who) in replicas.iter_mut().enumerate() {
        let mut left: Vec<&Vec<u8>> = updates.iter().collect();
        if place == 1 {
            left.reverse();
        }
        while !left.is_empty() {
            let before = left.len();
            let mut refused = None;
            left.retain(|update| match who.merge(seed, update) {
                Ok(_) => false,
                Err(error) => {
                    refused = Some(error);
                    true
                }
            });
            prop_assert!(left.len() < before, "{place}: {refused:?} of {left:?}");
        }
    }
    let content = replicas[0].content(seed);
    for who in &replicas[1..] {
        prop_assert_eq!(who.content(seed), content.clone());
    }
    // A state that was read back shows the same.
    let state = replicas[2].state.as_deref();
    let again = Cell::open(seed.kind(), state, Some(seed), Client::new(9)).unwrap();
    prop_assert_eq!(again.content().unwrap(), content);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn g9_texts_converge_whatever_the_order(steps in steps(), seed in "[a-z]{0,8}") {
        converge(&Content::Text(seed), &steps)?;
    }

    #[test]
    fn g9_lists_converge_whatever_the_order(steps in steps(), seed in 0..4_usize) {
        converge(&Content::List(vec![Json::from(1); seed]), &steps)?;
    }

    #[test]
    fn damage_is_told_and_changes_nothing(
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
        at in any::<usize>(),
        flip in 1..=255_u8,
    ) {
        let seed = text("abc");
        let mut one = Replica::new(1);
        let mut update = Replica::new(2).edit(&seed, &[insert(1, "xyz"), Edit::Delete { at: 0, length: 1 }]);
        let place = at % update.len();
        update[place] ^= flip;
        for update in [&bytes, &update] {
            // It may happen to be one; then it is merged.
            if one.merge(&seed, update).is_err() {
                prop_assert!(one.content(&seed).kind() == Kind::Text);
            }
        }
        let _ = one.content(&seed);
    }
}
