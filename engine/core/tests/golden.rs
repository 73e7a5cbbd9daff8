//! The records that Python writes are read here, understood, and written back equal.

use std::path::PathBuf;

use tulle_engine::observe::names::Names;
use tulle_engine::plan::endpoints::EndpointSet;
use tulle_engine::plan::inbound::InboundPlan;
use tulle_engine::plan::service::ServicePlan;
use tulle_engine::plan::{Build, Directory};
use tulle_engine::record::Record;

fn golden() -> Vec<(PathBuf, String)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let mut found = Vec::new();
    for case in std::fs::read_dir(&root).expect("the golden folder") {
        let case = case.expect("a case").path();
        if !case.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(&case).expect("a case's folder") {
            let path = file.expect("a file").path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                let text = std::fs::read_to_string(&path).expect("a record");
                found.push((path, text));
            }
        }
    }
    assert!(found.len() >= 10, "only {} golden records", found.len());
    found
}

#[test]
fn every_golden_record_is_written_back_equal() {
    for (path, text) in golden() {
        let record: Record = serde_json::from_str(text.trim_end())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        // A JSON value sorts its keys, as the canonical form asks.
        let back = serde_json::to_value(&record)
            .expect("a record is JSON")
            .to_string();
        assert_eq!(back, text.trim_end(), "{}", path.display());
    }
}

#[test]
fn every_golden_record_becomes_a_plan() {
    let (directory, names) = (Directory::default(), Names::default());
    // The case "everything" sets every field, not every field to something that makes sense.
    for (path, text) in golden()
        .into_iter()
        .filter(|(path, _)| !path.iter().any(|part| part == "everything"))
    {
        let record = serde_json::from_str(text.trim_end()).expect("read in the other test");
        let built = match record {
            Record::Service(record) => {
                let mut build = Build {
                    namespace: "shop",
                    directory: &directory,
                    names: &names,
                    added: Vec::new(),
                };
                ServicePlan::build(&record, &mut build).map(drop)
            }
            Record::Endpoints(record) => EndpointSet::build(&record, None, &names).map(drop),
            Record::Workload(record) => {
                drop(InboundPlan::build(&record));
                Ok(())
            }
            // The golden roots are words, not certificates.
            Record::Trust(_) => Ok(()),
        };
        built.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
