//! TOML into fields with line numbers.
//!
//! The parser limits nesting and refuses a name that stands twice. Not here: what the fields mean.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{DEPTH_MAX, Syntax};
use crate::config::rule::{Field, Written};

/// The fields of the root table, in the order of their lines.
pub(super) fn parse(text: &str) -> Result<Vec<Field>, Syntax> {
    let lines = Lines::of(text);
    let table = DeTable::parse(text).map_err(|error| Syntax {
        line: error.span().map(|span| lines.at(span.start)),
        problem: format!("this is not TOML: {}", error.message()),
    })?;
    fields(&lines, table.get_ref(), 0)
}

fn fields(lines: &Lines, table: &DeTable<'_>, depth: usize) -> Result<Vec<Field>, Syntax> {
    let mut fields = Vec::with_capacity(table.len());
    for (name, value) in table {
        let line = lines.at(name.span().start);
        let value = written(lines, line, value.get_ref(), depth + 1)?;
        fields.push(Field { name: name.get_ref().to_string(), line, value });
    }
    fields.sort_by_key(|field| field.line);
    Ok(fields)
}

fn written(lines: &Lines, line: usize, value: &DeValue<'_>, depth: usize) -> Result<Written, Syntax> {
    if DEPTH_MAX < depth {
        return Err(Syntax { line: Some(line), problem: format!("values are nested deeper than {DEPTH_MAX}") });
    }
    Ok(match value {
        DeValue::String(text) => Written::Text(text.to_string()),
        DeValue::Integer(integer) => Written::Bare(integer.to_string()),
        DeValue::Float(float) => Written::Bare(float.to_string()),
        DeValue::Boolean(boolean) => Written::Bare(boolean.to_string()),
        DeValue::Datetime(datetime) => Written::Bare(datetime.to_string()),
        DeValue::Array(items) => {
            let item = |item| written(lines, line, Spanned::get_ref(item), depth + 1);
            Written::List(items.iter().map(item).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => Written::Table(fields(lines, table, depth)?),
    })
}

/// Where lines begin, so that a file of many keys is not counted through for each of them.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(end, _)| end + 1).collect())
    }

    /// The line, from 1, in which the byte at `position` stands.
    fn at(&self, position: usize) -> usize {
        1 + self.0.partition_point(|start| *start <= position)
    }
}
