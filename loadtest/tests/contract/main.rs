//! `exo-load` as a user runs it, against a small node that keeps the contract or breaks it in one
//! chosen way.

mod abuse;
mod certificates;
mod could_not_run;
mod fails_on_each_fault;
mod faulty;
mod finds_the_capacity;
mod first_hour;
mod handshakes;
mod hangs_up;
mod journal;
mod layers;
mod manual;
mod passes_on_a_right_node;
mod reads_results;
mod realtime;
mod reconnects;
mod schema;
mod secure;
mod secure_node;
mod storms;
mod tls_front;
mod verifies_the_journal;
mod writes_its_files;
