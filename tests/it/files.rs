//! The commands `import` and `export`, run as a person runs them.

mod broken;
mod export;
mod rejects;

use std::{
    fs,
    path::{Path, PathBuf},
};

use customer_accounts::proto::{Address, GetOrganizationRequest};
use rcgen::ExtendedKeyUsagePurpose::ServerAuth;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    Tenant, account,
    certs::{Authority, LONG, Mounted},
    process::{Finished, Service, run},
    tokens::{Issuer, Key},
};

/// A folder with files, and a service for their rows.
pub struct Scene {
    pub folder: TempDir,
    pub service: Service,
    pub tenant: Tenant,
}

impl Scene {
    pub async fn new() -> Self {
        Self::on(Service::fresh(&[], &[]).await).await
    }

    /// With the organization `o`.
    pub async fn on(service: Service) -> Self {
        let folder = tempfile::Builder::new().prefix("ca-it").tempdir().unwrap();
        let tenant = Tenant::on(service.channel().await);
        tenant.organization("o", "").await;
        Self { folder, service, tenant }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The arguments that name the service and the tenant.
    pub fn target(&self) -> [String; 4] {
        let server = format!("http://{}", self.service.address);
        [
            "--server".into(),
            server,
            "--tenant".into(),
            self.tenant.caller().tenant.as_str().to_owned(),
        ]
    }

    pub async fn run(&self, arguments: &[&str]) -> Finished {
        let target = self.target();
        let target: Vec<_> = target.iter().map(String::as_str).collect();
        run(&[arguments, &target].concat(), &[]).await
    }

    /// Imports a file with this content, and returns the summary as JSON as well.
    pub async fn import(&self, name: &str, content: &str, more: &[&str]) -> (Value, Finished) {
        let path = self.write(name, content);
        let finished = self.run(&[&["import", &path, "--json", "--quiet"], more].concat()).await;
        let summary = serde_json::from_str(&finished.stdout).unwrap_or(Value::Null);
        (summary, finished)
    }

    /// Imports a file of which all rows are kept: created, updated and unchanged ones.
    pub async fn kept(&self, name: &str, content: &str, more: &[&str]) -> [u64; 3] {
        let (summary, finished) = self.import(name, content, more).await;
        assert_eq!(finished.code, Some(0), "{finished:?}");
        ["created", "updated", "unchanged"].map(|key| summary[key].as_u64().unwrap())
    }
}

/// The records of a CSV file without its header.
pub fn records(text: &str) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
    reader.records().map(|it| it.unwrap().iter().map(ToOwned::to_owned).collect()).collect()
}

/// Rows of new accounts, numbered.
pub fn many(count: usize) -> String {
    let rows = (0..count).map(|i| format!("n-{i:05},Account {i},o,n{i}@example.com\n"));
    format!(
        "account_id,display_name,organization_id,primary_contact.email\n{}",
        rows.collect::<String>()
    )
}

#[tokio::test]
async fn no_quote_and_no_option_takes_more_than_it_should() {
    let scene = Scene::new().await;
    let tenant = &scene.tenant;
    // A quote that is not closed ends at the next one, with text behind it.
    let text = format!(
        "{HEADER},description\nq1,N,o,a@b.example,\"first\nq2,N,o,a@b.example,\"second\"\n\
         ,,,,\nq3,N,o,a@b.example,\"third\"\n"
    );
    let (summary, _) = scene.import("a.csv", &text, &[]).await;
    assert_eq!([&summary["created"], &summary["refused"]], [1, 1], "{summary}");
    // What is ignored is not emptied, whatever it is called.
    let mut full = account("x", "o");
    let address = Address { line1: "1".into(), city: "c".into(), ..Default::default() };
    full.billing_address = Some(address.clone());
    full.metadata = [("a".to_owned(), "1".to_owned())].into();
    tenant.account(full).await;
    for (line, ignore) in [
        (r#"{"account_id":"x","billing_address":{"line1":"2"}}"#, "billing_address.line1"),
        (r#"{"account_id":"x","billingAddress":{"line1":"2"}}"#, "billing_address"),
        (r#"{"account_id":"x","billing_address":{"line1":"2"}}"#, "billingAddress.line1"),
        (r#"{"account":{"account_id":"x","metadata":{"a":"2"}}}"#, "metadata.a"),
        (r#"{"account_id":"x","colour":"red"}"#, "colour"),
    ] {
        assert_eq!(scene.kept("a.jsonl", line, &["--ignore", ignore]).await, [0, 0, 1], "{line}");
    }
    assert_eq!(tenant.get("x").await.unwrap().billing_address, Some(address));
    // Rows of which a thousand have more entries than a message may have.
    let metadata: Vec<_> = (0..60).map(|i| format!("metadata.k{i}")).collect();
    let cells = ",v".repeat(60);
    let rows: Vec<_> = (0..1000).map(|i| format!("m{i},M,o,a@b.example{cells}\n")).collect();
    let text = format!("{HEADER},{}\n{}", metadata.join(","), rows.concat());
    let (summary, finished) = scene.import("m.csv", &text, &[]).await;
    assert_eq!(summary["created"], 1000, "{finished:?}");
    // Files that would overwrite each other, or that cannot be written: nothing is sent.
    let file = scene.write("n.csv", format!("{HEADER}\nn,N,nowhere,a@b.example\n"));
    for (options, code) in [
        (["--rejects", "same", "--results", "same"], 2),
        (["--rejects", &file, "--batch-size", "1"], 2),
        (["--rejects", "no/such/folder.csv", "--batch-size", "1"], 1),
    ] {
        let finished = scene.run(&[&["import", &file][..], &options].concat()).await;
        assert_eq!(finished.code, Some(code), "{finished:?}");
        assert!(!finished.stderr.contains("refused"), "{finished:?}");
    }
}

const HEADER: &str = "account_id,display_name,organization_id,primary_contact.email";

#[tokio::test]
async fn a_file_is_imported_whatever_its_form() {
    let scene = Scene::new().await;
    for (i, text) in [
        // A byte order mark, as Excel writes it; semicolons, as it does in Europe; tabs.
        "\u{feff}account_id,display_name,organization_id,primary_contact.email\r\nID-1,Ä,o,a@b.example\r\n",
        "account_id;display_name;organization_id;primary_contact.email\nID-1;Ä;o;a@b.example",
        "account_id\tdisplay_name\torganization_id\tprimary_contact.email\nID-1\tÄ\to\ta@b.example\n",
        // Old line ends, empty lines, quotes where none are needed, blanks in the header.
        "account_id,display_name,organization_id,primary_contact.email\rID-1,Ä,o,a@b.example\r",
        "\n\n\"account_id\", display_name ,organization_id,primary_contact.email\n\n\n\"ID-1\",\"Ä\",o,a@b.example\n\n",
        // Columns that are told by the service, and one of a person's own.
        "_note,account_id,display_name,organization_id,primary_contact.email,create_time,update_time\nx,ID-1,Ä,o,a@b.example,1,2\n",
        // What export puts in front of formulas.
        "account_id,display_name,organization_id,primary_contact.email\nID-1,Ä,'o,a@b.example\n",
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("a{i}");
        let (summary, finished) =
            scene.import(&format!("{i}.csv"), &text.replace("ID-1", &id), &[]).await;
        // The apostrophe of the last one guards nothing, so it belongs to the id.
        let refused = u64::from(i == 6);
        assert_eq!(summary["refused"], refused, "{text:?}: {finished:?}");
        assert_eq!(finished.code, Some(if refused > 0 { 3 } else { 0 }));
        if refused == 0 {
            assert_eq!(scene.tenant.get(&id).await.unwrap().display_name, "Ä");
        }
    }
    for (name, text) in [
        (
            "1.jsonl",
            r#"{"account_id": "j1", "display_name": "Ä", "organization_id": "o", "primary_contact": {"email": "a@b.example"}}"#,
        ),
        (
            "2.ndjson",
            "\u{feff}{\"account\": {\"accountId\": \"j2\", \"displayName\": \"Ä\", \"organizationId\": \"o\", \"primaryContact\": {\"email\": \"a@b.example\"}}}\r\n\r\n",
        ),
        (
            "3.data",
            r#" {"_row": 1, "account_id": "j3", "display_name": "Ä", "organization_id": "o", "status": "active", "primary_contact": {"email": "a@b.example"}, "create_time": "2020-01-01T00:00:00Z"}"#,
        ),
    ] {
        assert_eq!(scene.kept(name, text, &[]).await, [1, 0, 0], "{name}");
    }
    // Files that are no table, and headers that are wrong: nothing is sent.
    for (name, text, code, says) in [
        ("a.csv", &b"\xff\xfea\0"[..], 1, "the file is UTF-16"),
        (
            "b.csv",
            b"account_id,display_name\nx,J\xf6rg\n",
            1,
            "line 2, byte 28 of the file: this is not UTF-8",
        ),
        ("c.csv", b"", 2, "the file is empty"),
        (
            "d.csv",
            b"account_id,display_nam\n",
            2,
            "there is no column `display_nam`; do you mean `display_name`?",
        ),
        ("e.csv", b"account_id,account_id\n", 2, "column `account_id` occurs twice"),
        ("f.csv", b"account_id,,display_name\n", 2, "column 2 has no name"),
        ("g.csv", b"display_name\n", 2, "no column account_id"),
        (
            "h.csv",
            b"account_id,metadata,metadata.x\n",
            2,
            "both `metadata` and columns of its entries",
        ),
        (
            "i.csv",
            b"account_id,display_name\nx,\"y\nz,a\n",
            1,
            "the quote opened in line 2 is not closed",
        ),
    ] {
        let path = scene.write(name, text);
        let finished = scene.run(&["import", &path]).await;
        assert_eq!(finished.code, Some(code), "{name}: {finished:?}");
        assert!(finished.stderr.contains(says), "{name}: {finished:?}");
        assert!(!scene.path(&format!("{}.rejects.csv", &name[..1])).exists());
    }
    let path = scene.path("none.csv");
    let missing = scene.run(&["import", path.to_str().unwrap()]).await;
    assert!(
        missing.code == Some(1) && missing.stderr.contains("none.csv: No such file"),
        "{missing:?}"
    );
    let ignored = scene.write("j.csv", "account_id,Owner\n");
    let unknown = scene.run(&["import", &ignored, "--ignore", "Owner", "--ignore", "Nobody"]).await;
    assert!(unknown.code == Some(2) && unknown.stderr.contains("--ignore Nobody"), "{unknown:?}");
    assert_eq!(scene.run(&["import", &ignored, "--ignore", "Owner"]).await.code, Some(0));
}

#[tokio::test]
async fn refused_rows_can_be_corrected_and_imported() {
    let scene = Scene::new().await;
    let text = format!(
        "{HEADER},status,is_primary\n\
         r1,One,o,a@b.example,ACTIVE,true\n\
         r2,\"Two\nlines\",o,a@b.example,,\n\
         r3,Three,nowhere,a@b.example,,\n\
         r4,Four,o\n\
         r1,Five,o,a@b.example,,\n\
         r6,Six,o,a@b.example,asleep,\n\
         ,Seven,o,a@b.example,,\n\
         r8,Eight,o,a@b.example,,perhaps\n\
         r9,'=SUM(A1),o,a@b.example,,\n"
    );
    let (summary, finished) = scene.import("a.csv", &text, &["--batch-size", "2"]).await;
    assert_eq!(finished.code, Some(3));
    assert_eq!([&summary["created"], &summary["refused"]], [2, 7]);
    let rejects = records(&scene.read("a.rejects.csv"));
    let found: Vec<_> = rejects.iter().map(|it| (&*it[0], &*it[1], &*it[3])).collect();
    assert_eq!(
        found,
        [
            ("3", "INVALID_FIELD", "r2"),
            ("5", "ORGANIZATION_NOT_FOUND", "r3"),
            ("6", "MALFORMED_ROW", "r4"),
            ("7", "DUPLICATE_ROW", "r1"),
            ("8", "INVALID_FIELD", "r6"),
            ("9", "INVALID_FIELD", ""),
            ("10", "INVALID_FIELD", "r8"),
        ]
    );
    assert!(finished.stderr.contains("7 refused (INVALID_FIELD 4, "), "{finished:?}");
    assert_eq!(scene.tenant.get("r9").await.unwrap().display_name, "=SUM(A1)");
    // The file of refused rows is a file like any other.
    let corrected = scene
        .read("a.rejects.csv")
        .replace("Two\nlines", "Two")
        .replace("nowhere", "o")
        .replace("r4,Four,o", "r4,Four,o,a@b.example,,")
        .replace("r1,Five", "r5,Five")
        .replace("asleep", "inactive")
        .replace(",Seven", "r7,Seven")
        .replace("perhaps", "false");
    assert_eq!(scene.kept("b.csv", &corrected, &[]).await, [7, 0, 0]);
    assert!(!scene.path("b.rejects.csv").exists());
    // Lines of JSON as well.
    let lines = "{\"account_id\": \"j1\", \"display_name\": 7}\n\
                 not json\n\
                 {\"account_id\": \"j2\", \"display_name\": \"J\", \"organization_id\": \"o\", \
                 \"primary_contact\": {\"email\": \"a@b.example\"}, \"colour\": \"red\"}\n\
                 [1]\n\
                 {}\n";
    let (summary, _) = scene.import("c.jsonl", lines, &[]).await;
    assert_eq!([&summary["created"], &summary["refused"]], [0, 5]);
    let rejects: Vec<Value> = scene
        .read("c.rejects.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let found: Vec<_> = rejects
        .iter()
        .map(|it| (it["_row"].as_u64().unwrap(), it["_reason"].as_str().unwrap()))
        .collect();
    assert_eq!(
        found,
        [
            (1, "INVALID_FIELD"),
            (2, "MALFORMED_ROW"),
            (3, "INVALID_FIELD"),
            (4, "MALFORMED_ROW"),
            (5, "INVALID_FIELD")
        ]
    );
    let said: Vec<_> = rejects.iter().map(|it| it["_message"].as_str().unwrap()).collect();
    assert!(said[0].starts_with("account.display_name: invalid type: integer"), "{}", said[0]);
    assert!(said[1].ends_with(" in column 2"), "{}", said[1]);
    assert!(said[2].starts_with("account.colour: "), "{}", said[2]);
    assert!(said.iter().all(|text| !text.contains("line 1")), "{said:?}");
    assert_eq!(rejects[1]["_line"], "not json");
    let corrected =
        scene.read("c.rejects.jsonl").replace("\"colour\": \"red\"", "\"comment\": \"red\"");
    let (summary, _) = scene.import("d.jsonl", &corrected, &[]).await;
    assert_eq!([&summary["created"], &summary["refused"]], [1, 4]);
    assert_eq!(scene.tenant.get("j2").await.unwrap().comment, "red");
}

/// A row that its cells do not tell is in the rejects file as it was, and what it has swallowed is
/// not imported before somebody has corrected it.
#[tokio::test]
async fn a_row_with_a_quote_that_is_not_closed_is_kept_as_it_was() {
    let scene = Scene::new().await;
    let header = HEADER.replace(',', ";");
    let row = "q1;N;o;a@b.example;\"first\nq2;N;o;a@b.example;\"second, \"\"2\"\"\"";
    let other = "q4;\"N;4\";nowhere;a@b.example;";
    let text = format!("{header};description\n{row}\r\n;;;;\n{other}\n");
    let mut name = "a".to_owned();
    scene.write("a.csv", text);
    for _ in 0..3 {
        let (summary, finished) =
            scene.import(&format!("{name}.csv"), &scene.read(&format!("{name}.csv")), &[]).await;
        assert_eq!([&summary["created"], &summary["refused"]], [0, 2], "{finished:?}");
        name += ".rejects";
        let rejects = scene.read(&format!("{name}.csv"));
        let (about, rest) = rejects.split_once('\n').unwrap();
        assert_eq!(about, format!("_row;_reason;_message;{header};description"));
        let behind = "text stands behind the quote that closes a cell; a quote inside a cell is \
                      written twice";
        let as_it_was = rest.split_once(&format!("{behind}\";")).unwrap().1;
        assert!(as_it_was.starts_with(&format!("{row}\n")), "{rejects}");
        assert!(as_it_was.ends_with(&format!(";{other}\n")), "{rejects}");
    }
    let rejects = scene.read(&format!("{name}.csv"));
    let corrected = rejects.replace("first\n", "first\"\n;;;").replace("nowhere", "o");
    assert_eq!(scene.kept("b.csv", &corrected, &[]).await, [3, 0, 0]);
    assert_eq!(scene.tenant.get("q2").await.unwrap().description, "second, \"2\"");
    assert_eq!(scene.tenant.get("q4").await.unwrap().display_name, "N;4");
}

#[tokio::test]
async fn a_line_of_json_names_each_field_once() {
    let scene = Scene::new().await;
    let twice = "has a value under each of its two names";
    for (line, says) in [
        (r#"{"account_id":"x","accountId":"y"}"#, format!("account.account_id: {twice}")),
        (
            r#"{"account":{"account_id":"x","billing_address":{"postal_code":"1","postalCode":"2"}}}"#,
            format!("account.billing_address.postal_code: {twice}"),
        ),
        (
            r#"{"account":{"account_id":"x"},"accountUsers":[{"person_id":"p"},{"person_id":"p","personId":"q"}]}"#,
            format!("account_users[1].person_id: {twice}"),
        ),
        (
            r#"{"account_id":"x","comment":"a","comment":"b"}"#,
            "the key \"comment\" occurs twice".into(),
        ),
        (
            r#"{"account_id":"x","metadata":{"a":"1","b":"1","a":"2"}}"#,
            "the key \"a\" occurs twice".into(),
        ),
        (
            r#"{"account_id":"x","preferences":{"list":[{"a":1,"a":1}]}}"#,
            "the key \"a\" occurs twice".into(),
        ),
    ] {
        scene.import("a.jsonl", line, &[]).await;
        let rejected: Value = serde_json::from_str(&scene.read("a.rejects.jsonl")).unwrap();
        let message = rejected["_message"].as_str().unwrap();
        assert!(message.starts_with(&says), "{line}: {message}");
        assert!(scene.read("a.rejects.jsonl").contains(line.trim_matches(['{', '}'])), "{line}");
    }
}

#[tokio::test]
async fn a_line_of_json_says_which_part_of_it_is_wrong() {
    let scene = Scene::new().await;
    let deep = format!("{}{}", "[".repeat(45), "]".repeat(45));
    let many = vec!["0"; 70_000].join(",");
    let lines = [
        (
            r#"{"account_id":"a","metadata":{"x":"1","crm":1}}"#,
            "account.metadata.crm: invalid type",
        ),
        (
            r#"{"account":{"account_id":"b"},"linked_organizations":[{"organization_id":"o"},null]}"#,
            "linked_organizations[1]: ",
        ),
        (
            r#"{"account":{"account_id":"c"},"linked_organizations":["o"]}"#,
            "linked_organizations[0]: invalid type",
        ),
        (
            r#"{"account":{"account_id":"d"},"account_users":[{"person_id":"p","roles":["x",1]}]}"#,
            "account_users[0].roles[1]: invalid type",
        ),
        (r#"{"account_id":"e","status":"FOO"}"#, "account.status: must be one of ACTIVE, "),
        (r#"{"account_id":"f","status":""}"#, "account.status: must be one of ACTIVE, "),
        (
            &format!(r#"{{"account_id":"g","preferences":{{"a":{deep}}}}}"#),
            "account.preferences: must have at most 32 objects and lists in each other",
        ),
        (
            &format!(r#"{{"account_id":"h","preferences":{{"a":[{many}]}}}}"#),
            "there are more than 60000 values",
        ),
        (r#"{"account_id":"i","#, "the line ends within an object"),
    ];
    for (line, says) in lines {
        scene.import("a.jsonl", line, &[]).await;
        let rejected: Value = serde_json::from_str(&scene.read("a.rejects.jsonl")).unwrap();
        let message = rejected["_message"].as_str().unwrap();
        assert!(message.starts_with(says), "{says}: {message}");
    }
}

/// Not even by importing the rejects file again and again.
#[tokio::test]
async fn of_a_key_that_occurs_twice_neither_value_is_lost() {
    let scene = Scene::new().await;
    let line = r#"{"account_id":"twice","display_name":"D","organization_id":"o","primary_contact":{"email":"a@b.example"},"comment":"first","comment":"second"}"#;
    let (mut name, mut text) = ("a".to_owned(), line.to_owned());
    for _ in 0..3 {
        let (_, done) = scene.import(&format!("{name}.jsonl"), &text, &[]).await;
        assert_eq!(done.code, Some(3), "{done:?}");
        name += ".rejects";
        text = scene.read(&format!("{name}.jsonl"));
        assert!(text.contains("first") && text.contains("second"), "{text}");
    }
    let cells = r#"account_id,metadata,preferences
taken,"{""a"":""1"",""a"":""2""}",
taken-2,,"{""x"":1,""x"":2}"
taken-3,,"{""x"":1e400}"
"#;
    scene.import("b.csv", cells, &[]).await;
    let rejects = scene.read("b.rejects.csv");
    for says in [
        "metadata: must be",
        "preferences: must be",
        "the key \"\"a\"\" occurs twice",
        "number out of range",
    ] {
        assert!(rejects.contains(says), "{says}: {rejects}");
    }
}

#[tokio::test]
async fn an_ignored_entry_of_the_metadata_stays_and_one_of_preferences_cannot_be_ignored() {
    let scene = Scene::new().await;
    let of = |crm: &str, erp: &str| {
        format!(
            r#"{{"account_id":"ign","display_name":"D","organization_id":"o","primary_contact":{{"email":"a@b.example"}},"metadata":{{"crm":"{crm}","erp":"{erp}"}}}}"#
        )
    };
    assert_eq!(scene.import("a.jsonl", &of("17", "4"), &[]).await.1.code, Some(0));
    for ignored in ["metadata.crm", "account.metadata.crm"] {
        let (_, done) = scene.import("b.jsonl", &of("99", ignored), &["--ignore", ignored]).await;
        assert_eq!(done.code, Some(0), "{done:?}");
        let metadata = scene.tenant.get("ign").await.unwrap().metadata;
        assert_eq!((&*metadata["crm"], &*metadata["erp"]), ("17", ignored));
    }
    let dotted = of("1", "1").replace("\"crm\"", "\"a.b\"");
    let (_, done) = scene.import("c.jsonl", &dotted, &["--ignore", "metadata.a.b"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let metadata = scene.tenant.get("ign").await.unwrap().metadata;
    assert!(!metadata.contains_key("a.b") && metadata["crm"] == "17", "{metadata:?}");
    let emptied = r#"{"account_id":"ign","metadata":null}"#;
    let (_, done) = scene.import("d.jsonl", emptied, &["--ignore", "metadata.crm"]).await;
    assert_eq!(done.code, Some(3), "{done:?}");
    assert_eq!(scene.tenant.get("ign").await.unwrap().metadata["crm"], "17");
    let ignored = ["--ignore", "preferences.x"];
    let (_, refused) = scene.import("b.jsonl", &of("1", "1"), &ignored).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("replaced as a whole"), "{refused:?}");
}

#[tokio::test]
async fn what_no_message_takes_is_refused_alone() {
    let scene = Scene::new().await;
    let links = vec!["o"; 60_000].join(";");
    let good = "D,o,a@b.example";
    let text = format!("{HEADER},linked_organizations\nmany,{good},{links}\nfine,{good},\n");
    let (_, done) = scene.import("a.csv", &text, &[]).await;
    assert_eq!(done.code, Some(3), "{done:?}");
    assert!(scene.read("a.rejects.csv").contains("of which a message takes 50000"), "{done:?}");
    scene.tenant.get("fine").await.unwrap();
    // A status has no empty value.
    let text = "account_id,status\nfine,\n";
    scene.import("b.csv", text, &["--empty", "clear"]).await;
    let rejects = scene.read("b.rejects.csv");
    assert!(rejects.contains("status: cannot be empty; it must be one of ACTIVE, "), "{rejects}");
    // UTF-16 without a byte order mark.
    let wide: String = "account_id,comment\nfine,x\n".chars().flat_map(|c| [c, '\0']).collect();
    let (_, done) = scene.import("c.csv", &wide, &[]).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains("the file is UTF-16"), "{done:?}");
}

#[tokio::test]
async fn each_result_has_the_id_that_its_row_has() {
    let scene = Scene::new().await;
    let path = scene.path("results");
    let results = ["--results", path.to_str().unwrap()];
    let csv = format!(
        "{HEADER}\nr1,One,o,a@b.example\nr1,Again,o,a@b.example\nr3,Cut\n\
         r4,Four,nowhere,a@b.example\n"
    );
    let json = "{\"account_id\": \"r5\", \"display_name\": 5}\n\
                {\"account\": {\"accountId\": \"r6\", \"colour\": 1}}\n";
    let mut found = Vec::new();
    for (name, text) in [("a.csv", &*csv), ("a.jsonl", json)] {
        scene.import(name, text, &results).await;
        for line in scene.read("results").lines() {
            let result: Value = serde_json::from_str(line).unwrap();
            found.push(format!("{} {}", result["account_id"], result["outcome"]));
        }
    }
    let expected = [
        r#""r1" "CREATED""#,
        r#""r1" "REFUSED""#,
        r#""r3" "REFUSED""#,
        r#""r4" "REFUSED""#,
        r#""r5" "REFUSED""#,
        r#""r6" "REFUSED""#,
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn an_organization_may_come_before_its_parent() {
    let scene = Scene::new().await;
    let header = format!("{HEADER},organization.display_name,organization.parent_id");
    let row = |id: &str, parent: &str| format!("a-{id},A,{id},a@b.example,Org {id},{parent}\n");
    let rows = [
        row("p1", "p2"),
        row("p2", "p3"),
        row("p3", "o"),
        row("p1-too", "p1"),
        // A circle, and a parent that nobody brings.
        row("c1", "c2"),
        row("c2", "c1"),
        row("c3", "c3"),
        row("x", "missing"),
    ];
    let text = format!("{header}\n{}", rows.concat());
    let (summary, finished) = scene.import("a.csv", &text, &[]).await;
    let counts = ["created", "refused", "organizations_created"].map(|key| summary[key].as_u64());
    assert_eq!(counts, [4, 4, 4].map(Some), "{finished:?}");
    let refused = records(&scene.read("a.rejects.csv"));
    let refused: Vec<_> = refused.iter().map(|it| (&*it[3], &*it[1])).collect();
    let reason = "ORGANIZATION_NOT_FOUND";
    assert_eq!(refused, ["a-c1", "a-c2", "a-c3", "a-x"].map(|id| (id, reason)));
    // The first row that brings an organization says what it is, also if its parent comes later.
    let rows = [row("e1", "e2"), row("e1", "").replace("a-e1", "a-e3"), row("e2", "o")];
    assert_eq!(scene.kept("e.csv", &format!("{header}\n{}", rows.concat()), &[]).await, [3, 0, 0]);
    let request = GetOrganizationRequest { organization_id: "e1".into() };
    let made = scene.tenant.organizations().get_organization(request).await.unwrap().into_inner();
    assert_eq!(made.organization.unwrap().parent_id, "e2");
    // A row without a parent takes an organization out of a circle that others would make.
    let rows = [row("d1", "d2"), row("d2", "d1").replace("a-d2", "a-d3"), row("d1", "")];
    let text = format!("{header}\n{}", rows.concat()).replacen("a-d1", "a-d2", 1);
    let (summary, finished) = scene.import("b.csv", &text, &[]).await;
    assert_eq!([&summary["created"], &summary["refused"]], [3, 0], "{finished:?}");
}

#[tokio::test]
async fn a_refused_row_creates_no_organization() {
    let scene = Scene::new().await;
    let text = format!(
        "{HEADER},account_manager_id,organization.display_name,organization.parent_id\n\
         a,A,o1,a@b.example,nobody,O,\n\
         b,B,o2,a@b.example,nobody,O,o1\n\
         c,C,o2,a@b.example,,O,o3\n\
         d,D,o3,a@b.example,,O,\n"
    );
    for (name, options) in [("a.csv", &["--dry-run"][..]), ("b.csv", &[])] {
        let (summary, finished) = scene.import(name, &text, options).await;
        let counts =
            ["created", "refused", "organizations_created"].map(|key| summary[key].as_u64());
        assert_eq!(counts, [2, 2, 2].map(Some), "{finished:?}");
    }
    let exists = async |id: &str| {
        let request = GetOrganizationRequest { organization_id: id.into() };
        scene.tenant.organizations().get_organization(request).await.is_ok()
    };
    assert_eq!([exists("o1").await, exists("o2").await, exists("o3").await], [false, true, true]);
}

#[tokio::test]
async fn a_program_learns_why_nothing_began() {
    let scene = Scene::new().await;
    for (text, options, code, says) in [
        ("account_id,colour\n", &[][..], 2, "there is no column `colour`"),
        (HEADER, &["--start-row", "9"], 0, ""),
    ] {
        let (summary, finished) = scene.import("a.csv", text, options).await;
        assert_eq!(
            (finished.code, &summary["rows"]),
            (Some(code), &Value::from(0)),
            "{finished:?}"
        );
        assert!(summary["error"].as_str().unwrap_or_default().contains(says), "{summary}");
    }
    let file = scene.write("b.csv", HEADER);
    let past = scene.run(&["import", &file, "--start-row", "9"]).await;
    assert!(past.stderr.contains("no row begins in line 9 or behind it"), "{past:?}");
    // A URL that is none is an error of the command line.
    for (url, says) in [
        ("localhost:50051", "must begin with https:// or http://"),
        ("ftp://localhost", "must begin with https:// or http://"),
        ("http://localhost/path", "without a path"),
        ("http://", "must be https://HOST:PORT"),
        ("http://me:secret@localhost", "no user and no password"),
        ("http://localhost:99999", "a port from 1 to 65535"),
        ("http://localhost:0", "a port from 1 to 65535"),
        ("http://:1", "must have a host"),
    ] {
        let finished = run(&["import", &file, "--server", url], &[]).await;
        assert_eq!(finished.code, Some(2), "{url}: {finished:?}");
        assert!(
            finished.stderr.contains("--server") && finished.stderr.contains(says),
            "{url}: {finished:?}"
        );
    }
    // The authorities are those of --server, and may be in the environment without it.
    let variable = [("CUSTOMER_ACCOUNTS_TLS_CA", "authorities.pem")];
    let local = run(&["import", &file, "--listen", "127.0.0.1:1"], &variable).await;
    assert!(local.code == Some(1) && local.stderr.contains("no service answers"), "{local:?}");
}

#[tokio::test]
async fn what_is_empty_stays_or_is_emptied() {
    let scene = Scene::new().await;
    let tenant = &scene.tenant;
    let mut full = account("x", "o");
    full.comment = "kept".into();
    full.tax_id = "kept".into();
    full.metadata = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into();
    tenant.account(full).await;
    let comment = async || tenant.get("x").await.unwrap().comment;
    let rows = "account_id,comment,tax_id\nx,,new\n";
    assert_eq!(scene.kept("a.csv", rows, &[]).await, [0, 1, 0]);
    assert_eq!(comment().await, "kept");
    assert_eq!(scene.kept("b.csv", rows, &[]).await, [0, 0, 1], "nothing changes");
    assert_eq!(scene.kept("c.csv", rows, &["--empty", "clear"]).await, [0, 1, 0]);
    assert_eq!(comment().await, "");
    // Entries of the metadata have columns of their own; the others stay.
    for (text, options, expected) in [
        ("account_id,metadata.a,metadata.c.d\nx,,3\n", &[][..], "a=1 b=2 c.d=3"),
        ("account_id,metadata.a\nx,\n", &["--empty", "clear"], "b=2 c.d=3"),
    ] {
        assert_eq!(scene.kept("d.csv", text, options).await, [0, 1, 0], "{text:?}");
        let metadata = tenant.get("x").await.unwrap().metadata;
        let mut entries: Vec<_> = metadata.iter().map(|(key, it)| format!("{key}={it}")).collect();
        entries.sort();
        assert_eq!(entries.join(" "), expected, "{text:?}");
    }
    assert_eq!(
        scene.kept("e.csv", "account_id,metadata\nx,\"{\"\"d\"\":\"\"4\"\"}\"\n", &[]).await,
        [0, 1, 0]
    );
    assert_eq!(tenant.get("x").await.unwrap().metadata, [("d".to_owned(), "4".to_owned())].into());
    // In JSON, absent is kept, and null is emptied, also inside an address.
    let patch = |text: &str| format!("{{\"account_id\": \"x\", {text}}}\n");
    let set = patch(
        r#""comment": "c", "billing_address": {"line1": "l", "city": "c"}, "preferences": {"n": [1, 2.5, null]}"#,
    );
    assert_eq!(scene.kept("f.jsonl", &set, &[]).await, [0, 1, 0]);
    let cleared = patch(r#""comment": null, "billingAddress": {"line1": ""}"#);
    assert_eq!(scene.kept("g.jsonl", &cleared, &[]).await, [0, 1, 0]);
    let found = tenant.get("x").await.unwrap();
    let address = found.billing_address.unwrap();
    assert_eq!((&*found.comment, &*address.line1, &*address.city), ("", "", "c"));
    assert!(found.preferences.is_some());
    let cleared = patch(r#""billing_address": null, "preferences": {}"#);
    assert_eq!(scene.kept("h.jsonl", &cleared, &[]).await, [0, 1, 0]);
    let found = tenant.get("x").await.unwrap();
    assert!(found.billing_address.is_none() && found.preferences.is_none());
}

#[tokio::test]
async fn a_row_brings_links_and_an_organization() {
    let scene = Scene::new().await;
    scene.tenant.organization("p", "").await;
    let text = "account_id,display_name,organization_id,organization.display_name,organization.parent_id,primary_contact.email,linked_organizations\n\
                x,X,new,New Org,o,a@b.example,o+; p\n";
    let (summary, finished) = scene.import("a.csv", text, &[]).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!([&summary["created"], &summary["organizations_created"]], [1, 1]);
    assert_eq!(scene.kept("b.csv", text, &[]).await, [0, 0, 1]);
    let exported = scene
        .run(&["export", "--format", "csv", "--columns", "account_id,linked_organizations"])
        .await;
    assert_eq!(exported.stdout, "account_id,linked_organizations\nx,o+;p\n");
}

#[tokio::test]
async fn the_options_do_what_they_say() {
    let scene = Scene::new().await;
    let tenant = &scene.tenant;
    let text = format!("{HEADER}\ny1,One,o,a@b.example\ny2,Two,nowhere,a@b.example\n");
    let (summary, finished) = scene.import("a.csv", &text, &["--dry-run"]).await;
    assert_eq!((finished.code, &summary["created"]), (Some(3), &Value::from(1)));
    assert!(finished.stderr.contains("1 would be created"), "{finished:?}");
    assert!(tenant.get("y1").await.is_err());
    let (summary, _) = scene.import("a.csv", &text, &["--all-or-nothing"]).await;
    assert_eq!(summary["refused_by_reason"]["BATCH_REFUSED"], 1);
    // A row that is refused here refuses the batch, too.
    let local = format!("{HEADER}\ny1,One,o,a@b.example\ny2,Two\n");
    let (summary, _) = scene.import("a.csv", &local, &["--all-or-nothing"]).await;
    assert_eq!(
        summary["refused_by_reason"],
        serde_json::json!({"BATCH_REFUSED": 1, "MALFORMED_ROW": 1})
    );
    assert!(tenant.get("y1").await.is_err());
    let (_, finished) = scene.import("a.csv", &text, &["--action", "update"]).await;
    let rejects = records(&scene.read("a.rejects.csv"));
    assert_eq!((finished.code, &*rejects[0][1]), (Some(3), "ACCOUNT_NOT_FOUND"));
    scene.import("a.csv", &text, &[]).await;
    for (action, refused) in [("create", 2), ("create-missing", 1), ("update", 1)] {
        let (summary, _) =
            scene.import("a.csv", &text.replace("One", "New"), &["--action", action]).await;
        assert_eq!(summary["refused"], refused, "{action}");
    }
    assert_eq!(tenant.get("y1").await.unwrap().display_name, "New");
    // Ids that the service makes.
    let nameless = "display_name,organization_id,primary_contact.email\nNo id,o,a@b.example\n";
    for _ in 0..2 {
        let made = scene.kept("b.csv", nameless, &["--generate-ids"]).await;
        assert_eq!(made, [1, 0, 0], "each time anew");
    }
    // Results, one line a row.
    let results = scene.path("results.jsonl");
    scene.import("a.csv", &text, &["--results", results.to_str().unwrap()]).await;
    let lines: Vec<Value> =
        scene.read("results.jsonl").lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    let outcomes: Vec<_> = lines.iter().map(|it| (&it["row"], &it["outcome"])).collect();
    assert_eq!(
        outcomes,
        [(&Value::from(2), &Value::from("UPDATED")), (&Value::from(3), &Value::from("REFUSED"))]
    );
    assert_eq!(lines[0]["etag"], tenant.get("y1").await.unwrap().etag);
    // It stops when too many rows are refused, and says where to go on.
    let bad = many(50).replace(",o,", ",nowhere,");
    let (summary, finished) =
        scene.import("c.csv", &bad, &["--batch-size", "5", "--max-refused", "7"]).await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("more than --max-refused 7"), "{finished:?}");
    let refused = summary["refused"].as_u64().unwrap();
    assert!((8..=20).contains(&refused), "{refused}");
    assert_eq!(summary["next_row"], refused + 2);
    assert_eq!(records(&scene.read("c.rejects.csv")).len() as u64, refused);
    // It is an error in the last batch as well, which leaves nothing to go on with.
    for size in ["1000", "1"] {
        let options = ["--max-refused", "49", "--batch-size", size];
        let (summary, finished) = scene.import("d.csv", &bad, &options).await;
        assert_eq!((finished.code, &summary["next_row"]), (Some(1), &Value::Null), "{finished:?}");
        assert!(!finished.stderr.contains("go on with"), "{finished:?}");
    }
    let local = "account_id,comment\nn1\nn2\n";
    let (summary, finished) = scene.import("e.csv", local, &["--max-refused", "0"]).await;
    assert_eq!((finished.code, &summary["next_row"]), (Some(1), &Value::Null), "{finished:?}");
    // One at the limit goes on.
    let (_, finished) = scene.import("d.csv", &bad, &["--max-refused", "50"]).await;
    assert_eq!(finished.code, Some(3));
}

#[tokio::test]
async fn a_token_and_a_certificate_are_used_and_wrong_ones_are_told() {
    let authority = Authority::new();
    let own = authority.sign(&["localhost"], LONG, "accounts", &[ServerAuth]);
    let mounted = Mounted::new(&own, None);
    let key = Key::es256("k");
    let issuer = Issuer::with(&[&key]).await;
    let (options, tokens) = (mounted.options(false), issuer.options());
    let options: Vec<_> = options.iter().chain(&tokens).map(String::as_str).collect();
    let service = Service::fresh(&options, &[]).await;
    let token = key.sign(&issuer.claims("demo"));
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, &authority.pem).unwrap();
    let server = format!("https://localhost:{}", service.address.port());
    let ca = ca.to_str().unwrap();
    let export = async |server: &str, more: &[&str]| {
        run(&[&["export", "--server", server, "--retry-for", "0s"], more].concat(), &[]).await
    };
    let fine = export(&server, &["--tls-ca", ca, "--token", &token]).await;
    assert_eq!(fine.code, Some(0), "{fine:?}");
    let none = export(&server, &["--tls-ca", ca]).await;
    assert!(none.code == Some(1) && none.stderr.contains("UNAUTHENTICATED"), "{none:?}");
    let untrusted = export(&server, &[]).await;
    assert!(
        untrusted.code == Some(1) && untrusted.stderr.contains("UnknownIssuer"),
        "{untrusted:?}"
    );
    let plain = export(&server.replace("https", "http"), &[]).await;
    assert_eq!(plain.code, Some(1), "{plain:?}");
}

/// The names that a folder has.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|it| it.unwrap().file_name().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}
