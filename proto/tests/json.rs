//! JSON of what the sample images lack, and the mistakes of people who edit it.

#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "all of this file is a test")]

use proto::json::{Form, RawBytes, decode, encode, encode_text, to_text};
use serde_json::{Value, json};

/// Makes an image, and checks that it becomes the same JSON again in both forms.
fn survives(json: &Value) -> Vec<u8> {
    let image = encode(json).unwrap_or_else(|e| panic!("{json}: {e}"));
    let pretty = decode(image.as_slice(), Form::Pretty, RawBytes::Show).unwrap();
    assert_eq!(&pretty, json, "{}", to_text(&pretty, Form::Pretty));
    let plain = decode(image.as_slice(), Form::Plain, RawBytes::Show).unwrap();
    assert_eq!(encode(&plain).unwrap(), image);
    image
}

fn ipc_object() -> Value {
    json!({"key": 1, "uid": 0, "gid": 0, "cuid": 0, "cgid": 0, "mode": 438, "id": 0})
}

#[test]
fn shared_memory_is_padded_to_4() {
    let image = survives(&json!({"magic": "IPCNS_SHM", "entries": [
        {"desc": ipc_object(), "size": 5, "extra": "aGVsbG8=\n"},
        {"desc": ipc_object(), "size": 4096, "in_pagemaps": true},
    ]}));
    assert!(image.windows(8).any(|bytes| bytes == b"hello\0\0\0"));
}

#[test]
fn queued_messages_are_entries_of_their_own() {
    let image = survives(&json!({"magic": "IPCNS_MSG", "entries": [
        {"desc": ipc_object(), "qbytes": 16384, "qnum": 2, "extra": [
            {"mtype": 1, "msize": 3, "extra": "b25l\n"},
            {"mtype": 2, "msize": 8, "extra": "bWVzc2FnZXM=\n"},
        ]},
        {"desc": ipc_object(), "qbytes": 16384, "qnum": 0, "extra": []},
    ]}));
    assert!(image.windows(8).any(|bytes| bytes == b"one\0\0\0\0\0"));
}

#[test]
fn semaphores_are_numbers() {
    survives(&json!({"magic": "IPCNS_SEM", "entries": [
        {"desc": ipc_object(), "nsems": 3, "extra": [1, 2, 65535]},
    ]}));
    // What stands in the padding is not lost either.
    survives(&json!({"magic": "IPCNS_SEM", "entries": [
        {"desc": ipc_object(), "nsems": 3, "extra": [1, 2, 3, 4]},
    ]}));
}

#[test]
fn ghost_files_come_whole_or_in_chunks() {
    let ghost = json!({"uid": 0, "gid": 0, "mode": 33188, "dev": "254:0", "ino": 7, "rdev": "4095:1048575"});
    let mut whole = ghost.clone();
    whole["extra"] = "Ym9keQ==\n".into();
    survives(&json!({"magic": "GHOST_FILE", "entries": [whole]}));
    let mut chunked = ghost;
    chunked["chunks"] = true.into();
    chunked["size"] = 8192.into();
    survives(&json!({"magic": "GHOST_FILE", "entries": [
        chunked,
        {"len": 4, "off": 0, "extra": "Ym9keQ==\n"},
        {"len": 0, "off": 4096, "extra": ""},
    ]}));
}

#[test]
fn maps_and_streams_have_two_parts() {
    survives(&json!({"magic": "BPFMAP_DATA", "entries": [
        {"map_id": 1, "keys_bytes": 1, "values_bytes": 2, "count": 1, "extra": {"keys": "YQ==\n", "values": "YmM=\n"}},
    ]}));
}

#[test]
fn hints_are_followed_both_ways() {
    let owner = json!({"uid": 0, "euid": 0, "signum": 0, "pid_type": 0, "pid": 0});
    let options = json!({
        "so_sndbuf": 1, "so_rcvbuf": 1, "so_snd_tmo_sec": 0, "so_snd_tmo_usec": 0,
        "so_rcv_tmo_sec": 0, "so_rcv_tmo_usec": 0, "so_filter": [18_446_744_073_709_551_615_u64]
    });
    survives(&json!({"magic": "INETSK", "entries": [{
        "id": 1, "ino": 2, "family": "INET6", "type": "STREAM", "proto": 132, "state": "LISTEN",
        "src_port": 80, "dst_port": 0, "flags": "0x2", "backlog": 5,
        "src_addr": ["fe80::1"], "dst_addr": ["::"], "fown": owner, "opts": options, "shutdown": "BOTH"
    }]}));
    survives(&json!({"magic": "REG_FILES", "entries": [{
        "id": 1, "flags": "O_WRONLY | O_APPEND | 0x40000000", "pos": 0, "fown": owner, "name": "/tmp/ä\n", "mnt_id": -1
    }]}));
    survives(&json!({"magic": "IRMAP_CACHE", "entries": [{"dev": "8:17", "inode": 3, "path": "/"}]}));
}

#[test]
fn numbers_and_names_are_both_understood() {
    let named = json!({"magic": "FDINFO", "entries": [{"id": 1, "flags": 0, "type": "REG", "fd": 2}]});
    let numbered = r#"{"magic":"FDINFO","entries":[{"fd":"2","type":1,"id":"0x1","flags":0}]}"#;
    assert_eq!(encode(&named).unwrap(), encode_text(numbered.as_bytes()).unwrap());
}

#[test]
fn unknown_fields_are_refused_in_json_but_survive_in_images() {
    use prost::Message as _;
    let reader = |bytes| proto::Reader::detect(bytes).unwrap();
    let mut image = encode(&json!({"magic": "FS", "entries": []})).unwrap();
    let message = [0x08, 0x01, 0x10, 0x02, 0x98, 0x06, 0x2a];
    image.extend(7u32.to_le_bytes());
    image.extend(message);
    let copy = reader(image.as_slice()).dynamic_entry().unwrap().unwrap().encode_to_vec();
    assert_eq!(copy, message);
    let error = decode(image.as_slice(), Form::Plain, RawBytes::Show).unwrap_err();
    insta::assert_snapshot!(error, @".entries[0]: field number 99 of fs_entry is unknown here and cannot be shown");
}

#[test]
fn mistakes_are_named_with_their_place() {
    let fs = |entry: &str| format!(r#"{{"magic":"FS","entries":[{entry}]}}"#);
    let vma = |key: &str, value: &str| {
        let mut vma = json!({"start": 0, "end": 0, "pgoff": 0, "shmid": 0, "prot": 0, "flags": 0, "status": 0, "fd": -1});
        vma[key] = serde_json::from_str(value).unwrap();
        json!({"magic": "VMAS", "entries": [vma]}).to_string()
    };
    let cases = [
        String::new(),
        "[]".to_owned(),
        "{}".to_owned(),
        r#"{"magic": "FS"}"#.to_owned(),
        r#"{"magic": "FS", "entries": {}}"#.to_owned(),
        r#"{"magic": "FS", "entries": [], "more": 1}"#.to_owned(),
        r#"{"magic": "FSS", "entries": []}"#.to_owned(),
        r#"{"magic": "PAGES", "entries": []}"#.to_owned(),
        fs("1"),
        fs(r#"{"cwd_id": 1}"#),
        fs(r#"{"cwd_id": 1, "root_id": 2, "umsk": 0}"#),
        fs(r#"{"cwd_id": 1, "root_id": 4294967296}"#),
        fs(r#"{"cwd_id": 1, "root_id": -1}"#),
        fs(r#"{"cwd_id": 1.5, "root_id": 1}"#),
        fs(r#"{"cwd_id": null, "root_id": 1}"#),
        fs(r#"{"cwd_id": 1, "root_id": 1, "extra": ""}"#),
        vma("prot", r#""PROT_READ | PROT_WRIT""#),
        vma("start", r#""0xzz""#),
        vma("fd", r#""a very long text that nobody would want to see in a message""#),
        r#"{"magic":"PIPES_DATA","entries":[{"pipe_id":1,"bytes":3,"extra":"b25lLg=="}]}"#.to_owned(),
        r#"{"magic":"PIPES_DATA","entries":[{"pipe_id":1,"bytes":3}]}"#.to_owned(),
        r#"{"magic":"PIPES_DATA","entries":[{"pipe_id":1,"bytes":3,"extra":"!"}]}"#.to_owned(),
        r#"{"magic":"FDINFO","entries":[{"id":1,"flags":0,"type":"REGULAR","fd":2}]}"#.to_owned(),
        r#"{"magic":"GHOST_FILE","entries":[{"uid":0,"gid":0,"mode":0,"dev":"4096:0","extra":""}]}"#
            .to_owned(),
        r#"{"magic":"GHOST_FILE","entries":[{"uid":0,"gid":0,"mode":0,"extra":""},{}]}"#.to_owned(),
    ];
    let lines: Vec<String> = cases
        .iter()
        .map(|text| {
            encode_text(text.as_bytes()).map_or_else(|e| e.to_string(), |_| format!("accepted {text}"))
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}
