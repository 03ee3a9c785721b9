//! Tests of `wire`: what two nodes say to each other arrives as it was meant, or not at all.

use super::*;

fn rows(count: usize, dimensions: usize) -> Vec<Embedding> {
    let row = |index: usize| Embedding {
        values: (0..dimensions).map(|value| (index * dimensions + value) as f32).collect(),
        tokens: 3,
    };
    (0..count).map(row).collect()
}

fn decode(parts: &[Bytes], rows_max: usize, piece: usize) -> Result<(Vec<Embedding>, End), WireError> {
    let mut decoder = AnswerDecoder::new(rows_max, None, 1 << 20);
    let whole: Vec<u8> = parts.iter().flatten().copied().collect();
    for piece in whole.chunks(piece) {
        decoder.push(Bytes::copy_from_slice(piece))?;
    }
    decoder.finish()
}

#[test]
fn an_answer_survives_being_cut_anywhere() {
    let end = End { queue_us: 7, load: "a report".to_owned(), ..End::default() };
    for (count, dimensions) in [(1, 3), (3, 384), (700, 384)] {
        let rows = rows(count, dimensions);
        let parts = encode_answer(&rows, end.clone());
        for piece in [1, 2, 7, 4096, usize::MAX] {
            assert_eq!(decode(&parts, count, piece), Ok((rows.clone(), end.clone())), "{count} rows by {piece}");
        }
    }
    assert_eq!(encode_answer(&rows(2, 384), end.clone()).len(), 1, "a short answer is one frame");
    assert!(3 < encode_answer(&rows(2048, 384), end).len(), "a long one is cut");
}

#[test]
fn an_answer_of_any_shape_is_readable_by_a_peer_with_the_least_message_limit() {
    for (count, dimensions) in [(40_000, 1), (3000, 7), (700, 384), (40, 4096)] {
        let mut decoder = AnswerDecoder::new(count, None, 128 << 10);
        for part in encode_answer(&rows(count, dimensions), End::default()) {
            assert_eq!(decoder.push(part), Ok(()), "{count} rows of {dimensions} dimensions");
        }
    }
}

#[test]
fn vectors_of_another_width_than_was_asked_for_or_of_several_are_refused() {
    let one_width = encode_answer(&rows(3, 4), End::default());
    let narrow = delimited(&AnswerPart { rows: Some(rows_message(rows(1, 2).iter())), end: None });
    let two_widths = [vec![narrow], encode_answer(&rows(2, 4), End::default())].concat();
    for (parts, width, sound) in [
        (&one_width, None, true),
        (&one_width, Some(4), true),
        (&one_width, Some(2), false),
        (&two_widths, None, false),
    ] {
        let mut decoder = AnswerDecoder::new(3, width, 1 << 20);
        let told = parts.iter().try_for_each(|part| decoder.push(part.clone()));
        assert_eq!(told.is_ok(), sound, "{width:?}: {told:?}");
    }
}

#[test]
fn an_answer_that_lies_is_refused_whole() {
    let end = End::default;
    let good = encode_answer(&rows(2, 4), end());
    let nan = vec![Embedding { values: vec![f32::NAN], tokens: 1 }];
    let long = vec![Bytes::from(vec![0xFF, 0xFF, 0xFF, 0x7F])];
    let odd = Rows { dimensions: 3, values: Bytes::from_static(&[0; 13]), tokens: vec![1] };
    let odd = vec![delimited(&AnswerPart { rows: Some(odd), end: Some(end()) })];
    for (name, parts, rows_max) in [
        ("too many rows", good.clone(), 1),
        ("too few rows", good.clone(), 3),
        ("no end", vec![good[0].slice(0..10)], 2),
        ("not finite", encode_answer(&nan, end()), 1),
        ("a message of 256 MB", long, 1),
        ("values that do not fit", odd, 1),
        ("two ends", [good.clone(), good].concat(), 4),
        ("noise", vec![Bytes::from_static(&[3, 0xFF, 0xFF, 0xFF, 0xFF])], 1),
    ] {
        assert!(decode(&parts, rows_max, 5).is_err(), "{name}");
    }
}

#[test]
fn a_report_survives_and_a_later_versions_additions_are_ignored() {
    let known = Report {
        boot: BootId(u64::MAX),
        seq: 1,
        wait: Micros::new(2),
        cost: Cost { fixed: Micros::new(3), per_unit_ns: 4 },
        standing: Standing::Ready,
        held: 5,
        slots: 6,
        busy: Some(Share::percent(0)),
        memory: Some(Share::FULL),
    };
    let unknown = Report { busy: None, memory: None, ..known };
    for report in Standing::ALL.into_iter().flat_map(|standing| [known, unknown].map(|it| Report { standing, ..it })) {
        let text = encode_report(&report);
        assert_eq!(decode_report(&text), Ok(report));
        assert_eq!(decode_report(&format!("{text}.99.x")), Ok(report));
    }
    let later = decode_report("v1.1.2.3.4.5.77.0.1.255.255").map(|report| report.standing.accepts());
    assert_eq!(later, Ok(false), "a standing of a later version takes no work");
}

#[test]
fn a_report_that_cannot_be_is_told_by_what_is_wrong_with_it() {
    use ReportFault::{Absurd, Form, Garbled};
    for (text, fault) in [
        ("", Form),
        ("1.2.3.4.5.1", Form),
        ("v2.1.2.3.4.5.1.0.1.255.255", Form),
        ("v1", Form),
        ("v1.", Garbled),
        ("v1.1.2.3.4.5.1.0.1.255", Garbled),
        ("v1.1.2.-3.4.5.1.0.1.255.255", Garbled),
        ("v1.1.2.+3.4.5.1.0.1.255.255", Garbled),
        ("v1.1.2.NaN.4.5.1.0.1.255.255", Garbled),
        ("v1.1.2.1e3.4.5.1.0.1.255.255", Garbled),
        ("v1.99999999999999999999.2.3.4.5.1.0.1.255.255", Garbled),
        ("v1.1.2.3.4.5.1.4294967296.1.255.255", Garbled),
        ("v1.1.2.3.4.5.1.0.1.101.255", Garbled),
        ("v1.1.2.3.4.5.1.0.1.255.65535", Garbled),
        ("v1.1.2.18446744073709551615.4.5.1.0.1.255.255", Absurd),
        ("v1.1.2.3.18446744073709551615.5.1.0.1.255.255", Absurd),
        ("v1.1.2.3.4.18446744073709551615.1.0.1.255.255", Absurd),
        ("v1.1.2.3.4.5.1.0.0.255.255", Absurd),
        ("v1.1.2.3.4.5.1.0.4294967295.255.255", Absurd),
    ] {
        assert_eq!(decode_report(text), Err(fault), "{text:?}");
    }
}
