//! A tiny PDF writer: just enough to make good files, and bad ones on purpose.

use std::fmt::Write as _;
use std::path::PathBuf;

/// The reader process built with these tests.
pub(crate) fn reader() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_reprise-read-pdf"))
}

/// What a page shows.
pub(crate) enum PageContent<'a> {
    /// Lines in Helvetica, top to bottom.
    Lines(&'a [&'a str]),
    /// Two columns drawn row by row, the order in which naive readers mix them up.
    Columns(&'a [&'a str], &'a [&'a str]),
    /// One image over the whole page, as a scanner makes it, and a line of text over it (`""` for none).
    Scan(&'a str),
    /// Nothing at all.
    Blank,
    /// Content with a filter that cannot be undone.
    Garbled,
}

/// Objects numbered from 1, with a cross-reference table.
pub(crate) struct PdfWriter {
    bytes: Vec<u8>,
    offsets: Vec<usize>,
}

impl PdfWriter {
    pub(crate) fn new() -> Self {
        Self { bytes: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n".to_vec(), offsets: Vec::new() }
    }

    /// Appends an object; its number.
    pub(crate) fn object(&mut self, body: &[u8]) -> usize {
        self.offsets.push(self.bytes.len());
        let number = self.offsets.len();
        self.bytes.extend_from_slice(format!("{number} 0 obj\n").as_bytes());
        self.bytes.extend_from_slice(body);
        self.bytes.extend_from_slice(b"\nendobj\n");
        number
    }

    pub(crate) fn stream(&mut self, dictionary: &str, data: &[u8]) -> usize {
        let mut body = format!("<< {dictionary} /Length {} >>\nstream\n", data.len()).into_bytes();
        body.extend_from_slice(data);
        body.extend_from_slice(b"\nendstream");
        self.object(&body)
    }

    pub(crate) fn finish(mut self, root: usize) -> Vec<u8> {
        let start = self.bytes.len();
        let mut tail = format!("xref\n0 {}\n0000000000 65535 f \n", self.offsets.len() + 1);
        for offset in &self.offsets {
            let _ = writeln!(tail, "{offset:010} 00000 n ");
        }
        let size = self.offsets.len() + 1;
        let _ = write!(tail, "trailer\n<< /Size {size} /Root {root} 0 R >>\nstartxref\n{start}\n%%EOF\n");
        self.bytes.extend_from_slice(tail.as_bytes());
        self.bytes
    }
}

/// A whole document of these pages.
pub(crate) fn pdf(pages: &[PageContent<'_>]) -> Vec<u8> {
    let mut writer = PdfWriter::new();
    let font = writer.object(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>");
    let image = writer.stream(
        "/Type /XObject /Subtype /Image /Width 8 /Height 8 /ColorSpace /DeviceGray /BitsPerComponent 8",
        &[0x80; 64],
    );
    // The page tree's number is known once all pages are counted: two objects each.
    let tree = 2 + 2 * pages.len() + 1;
    let mut kids = String::new();
    for page in pages {
        let content = match page {
            PageContent::Garbled => writer.stream("/Filter /FlateDecode", b"this is not deflated at all"),
            page => writer.stream("", drawing(page).as_bytes()),
        };
        let body = format!(
            "<< /Type /Page /Parent {tree} 0 R /MediaBox [0 0 612 792] /Contents {content} 0 R \
             /Resources << /Font << /F1 {font} 0 R >> /XObject << /Im1 {image} 0 R >> >> >>"
        );
        let number = writer.object(body.as_bytes());
        let _ = write!(kids, "{number} 0 R ");
    }
    let body = format!("<< /Type /Pages /Count {} /Kids [{kids}] >>", pages.len());
    assert_eq!(writer.object(body.as_bytes()), tree);
    let root = writer.object(format!("<< /Type /Catalog /Pages {tree} 0 R >>").as_bytes());
    writer.finish(root)
}

fn drawing(page: &PageContent<'_>) -> String {
    let mut content = String::new();
    let mut show = |x: usize, y: usize, text: &str| {
        let escaped = text.replace('\\', "\\\\").replace('(', "\\(").replace(')', "\\)");
        let _ = writeln!(content, "BT /F1 11 Tf 1 0 0 1 {x} {y} Tm ({escaped}) Tj ET");
    };
    match page {
        PageContent::Lines(lines) => {
            for (row, line) in lines.iter().enumerate() {
                show(72, 700 - 14 * row, line);
            }
        }
        PageContent::Columns(left, right) => {
            for (row, (left, right)) in left.iter().zip(*right).enumerate() {
                show(72, 700 - 14 * row, left);
                show(330, 700 - 14 * row, right);
            }
        }
        PageContent::Scan(text) => {
            if !text.is_empty() {
                show(300, 400, text);
            }
            content.push_str("q 612 0 0 792 0 0 cm /Im1 Do Q\n");
        }
        PageContent::Blank | PageContent::Garbled => {}
    }
    content
}

/// Arrays within arrays: a parser that recurses runs out of stack.
pub(crate) fn nested(depth: usize) -> Vec<u8> {
    let mut writer = PdfWriter::new();
    let mut arrays = vec![b'['; depth];
    arrays.extend(std::iter::repeat_n(b']', depth));
    let mut root = b"<< /Type /Catalog /Pages 1 0 R /Deep ".to_vec();
    root.extend_from_slice(&arrays);
    root.extend_from_slice(b" >>");
    writer.object(b"<< /Type /Pages /Count 0 /Kids [] >>");
    let root = writer.object(&root);
    writer.finish(root)
}
