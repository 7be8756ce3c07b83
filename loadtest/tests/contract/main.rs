//! `exo-load` as a user runs it, against a small node that keeps the contract or breaks it in one chosen way.

mod could_not_run;
mod fails_on_each_fault;
mod faulty;
mod finds_the_capacity;
mod hangs_up;
mod journal;
mod passes_on_a_right_node;
mod reads_results;
mod realtime;
mod reconnects;
mod schema;
mod verifies_the_journal;
mod writes_its_files;
