//! YAML into fields with line numbers.
//!
//! Built on the parser's events instead of its loader: the loader recurses without a limit and copies what an alias
//! names, so a small file could end the process or fill the memory. A scalar stays text, whose type the key decides: a
//! zone called `no` stays `no`.
//!
//! Invariants: nesting is limited, aliases are refused, a name stands once.

use std::collections::HashMap;

use yaml_rust2::Event;
use yaml_rust2::parser::Parser;
use yaml_rust2::scanner::{Marker, ScanError, TScalarStyle};

use super::{DEPTH_MAX, Syntax};
use crate::config::problem::quoted;
use crate::config::rule::{Field, Written};

/// The fields of the root mapping, in the order of their lines. An empty document has none.
pub(super) fn parse(text: &str) -> Result<Vec<Field>, Syntax> {
    let mut reader = Reader { parser: Parser::new_from_str(text) };
    // The start of the stream, then the start of the document where there is one.
    reader.next()?;
    if let (Event::StreamEnd, _) = reader.next()? {
        return Ok(Vec::new());
    }
    let (event, mark) = reader.next()?;
    let fields = match reader.value(event, mark, 0)? {
        Written::Table(fields) => fields,
        Written::Nothing => Vec::new(),
        Written::Loose(_) | Written::Text(_) | Written::Bare(_) | Written::List(_) => {
            return Err(at(mark, "the file holds no sections, such as `node:`"));
        }
    };
    // The end of the document.
    reader.next()?;
    match reader.next()? {
        (Event::StreamEnd, _) => Ok(fields),
        (_, mark) => Err(at(mark, "a second document begins here")),
    }
}

struct Reader<'a> {
    parser: Parser<std::str::Chars<'a>>,
}

impl Reader<'_> {
    fn next(&mut self) -> Result<(Event, Marker), Syntax> {
        self.parser
            .next_token()
            .map_err(|error: ScanError| at(*error.marker(), format!("this is not YAML: {}", error.info())))
    }

    fn value(&mut self, event: Event, mark: Marker, depth: usize) -> Result<Written, Syntax> {
        if DEPTH_MAX < depth {
            return Err(at(mark, format!("values are nested deeper than {DEPTH_MAX}")));
        }
        match event {
            Event::Scalar(text, TScalarStyle::Plain, ..) if is_nothing(&text) => Ok(Written::Nothing),
            Event::Scalar(text, ..) => Ok(Written::Loose(text)),
            Event::SequenceStart(..) => self.list(depth),
            Event::MappingStart(..) => self.table(depth),
            Event::Alias(_) => Err(at(mark, "aliases (*name) are not allowed here")),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => Err(at(mark, "the document ends too early")),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Written, Syntax> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Written::List(items)),
                (event, mark) => items.push(self.value(event, mark, depth + 1)?),
            }
        }
    }

    fn table(&mut self, depth: usize) -> Result<Written, Syntax> {
        let mut fields = Vec::new();
        let mut lines = HashMap::new();
        loop {
            let (name, line) = match self.next()? {
                (Event::MappingEnd, _) => return Ok(Written::Table(fields)),
                (Event::Scalar(name, ..), mark) => (name, mark.line()),
                (_, mark) => return Err(at(mark, "a name has to be text")),
            };
            if let Some(first) = lines.insert(name.clone(), line) {
                let problem = format!("{} stands here and on line {first}", quoted(&name));
                return Err(Syntax { line: Some(line), problem });
            }
            let (event, mark) = self.next()?;
            let value = self.value(event, mark, depth + 1)?;
            fields.push(Field { name, line, value });
        }
    }
}

/// How YAML writes that there is no value.
fn is_nothing(plain: &str) -> bool {
    matches!(plain, "" | "~" | "null" | "Null" | "NULL")
}

fn at(mark: Marker, problem: impl Into<String>) -> Syntax {
    Syntax { line: Some(mark.line()), problem: problem.into() }
}
