// Numbers as people read them, as `exo-ingest top` shows them.
"use strict";

const grouped = new Intl.NumberFormat("en-US");

const count = (number) => grouped.format(Math.round(number));

const rate = (number) => (number >= 100 || number === 0 ? count(number) : number.toFixed(1));

function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let index = 0;
  while (number >= 999.5 && index + 1 < units.length) {
    number /= 1000;
    index += 1;
  }
  return `${number.toFixed(index > 0 && number < 100 ? 1 : 0)} ${units[index]}`;
}

function seconds(number) {
  const whole = Math.floor(Math.abs(number));
  const sign = number <= -1 ? "-" : "";
  const two = (part) => String(part).padStart(2, "0");
  if (whole < 60) {
    return `${(Math.abs(number) < 0.05 ? 0 : number).toFixed(1)} s`;
  }
  if (whole < 3600) {
    return `${sign}${Math.floor(whole / 60)}m ${two(whole % 60)}s`;
  }
  if (whole < 86400) {
    return `${sign}${Math.floor(whole / 3600)}h ${two(Math.floor(whole / 60) % 60)}m`;
  }
  return `${sign}${Math.floor(whole / 86400)}d ${two(Math.floor(whole / 3600) % 24)}h`;
}

function micros(number) {
  if (number === 0) {
    return "0";
  }
  if (number < 1000) {
    return `${Math.round(number)} µs`;
  }
  if (number < 100000) {
    return `${(number / 1000).toFixed(1)} ms`;
  }
  return number < 1e6 ? `${Math.floor(number / 1000)} ms` : seconds(number / 1e6);
}

const percent = (share) => `${(share * 100).toFixed(0)} %`;

// An id with what cannot be seen, or reverses text, written out. Ids come from peers.
function shown(id) {
  const hidden = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;
  return id.replace(hidden, (letter) => `\\u{${letter.codePointAt(0).toString(16)}}`);
}
