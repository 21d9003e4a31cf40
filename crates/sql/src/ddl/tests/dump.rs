//! Whole schemas as people bring them.

use super::Database;

/// What pg_dump writes around a table with a serial key.
#[test]
fn a_dump_s_schema_loads() {
    let mut database = Database::new();
    database.run(&[
        "CREATE TABLE public.item (\n    id integer NOT NULL,\n    name character varying(40) DEFAULT 'none'::character varying NOT NULL,\n    price numeric(10,2),\n    made timestamp without time zone DEFAULT now(),\n    owner integer\n)",
        "ALTER TABLE public.item OWNER TO shop",
        "COMMENT ON TABLE public.item IS 'things'",
        "COMMENT ON COLUMN public.item.name IS 'what it is called'",
        "CREATE SEQUENCE public.item_id_seq\n    AS integer\n    START WITH 1\n    INCREMENT BY 1\n    NO MINVALUE\n    NO MAXVALUE\n    CACHE 1",
        "ALTER TABLE public.item_id_seq OWNER TO shop",
        "ALTER SEQUENCE public.item_id_seq OWNED BY public.item.id",
        "CREATE TABLE public.owner (id integer NOT NULL, email text)",
        "ALTER TABLE ONLY public.item ALTER COLUMN id SET DEFAULT nextval('public.item_id_seq'::regclass)",
        "ALTER TABLE ONLY public.item ADD CONSTRAINT item_pkey PRIMARY KEY (id)",
        "ALTER TABLE ONLY public.owner ADD CONSTRAINT owner_pkey PRIMARY KEY (id)",
        "ALTER TABLE ONLY public.owner ADD CONSTRAINT owner_email_key UNIQUE (email)",
        "CREATE INDEX item_name_idx ON public.item USING btree (name)",
        "CREATE VIEW public.priced AS\n SELECT item.id,\n    item.name\n   FROM public.item\n  WHERE (item.price > (0)::numeric)",
        "ALTER VIEW public.priced OWNER TO shop",
        "ALTER TABLE ONLY public.item ADD CONSTRAINT item_owner_fkey FOREIGN KEY (owner) REFERENCES public.owner(id) ON UPDATE CASCADE ON DELETE SET NULL",
        "COMMENT ON CONSTRAINT item_pkey ON public.item IS 'key'",
    ]);
    let item = database.table("item");
    assert!(item.key_is_rowid());
    assert_eq!(
        item.columns[0].sequence,
        Some(
            database
                .catalog
                .sequence_named(&crate::catalog::QualifiedName::public("item_id_seq"))
                .unwrap()
                .id
        )
    );
    database.check_replay();
}

/// The DDL of the Chinook script, unchanged. The script lies beside the repository; without it there
/// is nothing to load.
#[test]
fn chinook_s_schema_loads() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/data/chinook_postgresql.sql"
    );
    let Ok(script) = std::fs::read_to_string(path) else {
        return;
    };
    let script: String = script
        .lines()
        .filter(|line| !line.starts_with('\\'))
        .collect::<Vec<_>>()
        .join("\n");
    let mut database = Database::new();
    let mut count = 0;
    for statement in crate::split::statements(&script) {
        let statement = statement.unwrap();
        let start = statement.trim_start();
        let is = |word: &str| {
            start
                .get(..word.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(word))
        };
        if ["CREATE TABLE", "CREATE INDEX", "ALTER TABLE"]
            .iter()
            .any(|word| is(word))
        {
            database.run(&[statement]);
            count += 1;
        }
    }
    let own = crate::catalog::Catalog::bootstrap().tables.len();
    assert_eq!((count, database.catalog.tables.len() - own), (33, 11));
    assert_eq!(database.table("track").foreign_keys.len(), 3);
    database.check_replay();
}
