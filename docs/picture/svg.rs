//! Parts of pictures, as SVG: readable by themselves, on light and on dark ground, with no font but the reader's own. The load
//! test draws with them, too.

const STYLE: &str = "
    .ground { fill: #ffffff; } .text { fill: #1f2328; } .faint { fill: #59636e; }
    .edge { stroke: #d1d9e0; } .axis { stroke: #818b98; } .limit { stroke: #1f2328; stroke-dasharray: 6 4; stroke-width: 1.5; }
    .within { fill: #0969da; fill-opacity: 0.22; } .over { fill: #cf222e; fill-opacity: 0.35; }
    .bar { fill: #0550ae; } .kept { fill: #0550ae; } .broken { fill: #cf222e; }
    .other { fill: #818b98; } .beside { fill: #818b98; fill-opacity: 0.4; }
    .span { stroke: #0550ae; stroke-width: 2; } .otherspan { stroke: #818b98; stroke-width: 2; }
    text { font-family: system-ui, sans-serif; font-size: 14px; }
    .head { font-size: 19px; font-weight: 600; } .name { font-weight: 600; font-size: 15px; }
    .most { font-size: 28px; font-weight: 600; } .small { font-size: 12px; }
    @media (prefers-color-scheme: dark) {
      .ground { fill: #0d1117; } .text { fill: #f0f6fc; } .faint { fill: #9198a1; }
      .edge { stroke: #3d444d; } .axis { stroke: #656c76; } .limit { stroke: #f0f6fc; }
      .within { fill: #4493f8; fill-opacity: 0.3; } .over { fill: #f85149; fill-opacity: 0.5; }
      .bar { fill: #79c0ff; } .kept { fill: #79c0ff; } .broken { fill: #ff7b72; }
      .span { stroke: #79c0ff; }
    }
  ";

/// A whole picture of that size, with its title at its head; `described` is for those who do not see it.
pub(crate) fn picture(width: f64, height: f64, title: &str, described: &str, lines: Vec<String>) -> String {
    let mut all = vec![
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="title desc">"#
        ),
        format!("  <title id=\"title\">{title}</title>"),
        format!("  <desc id=\"desc\">{described}</desc>"),
        format!("  <style>{STYLE}</style>"),
        format!(r#"  <rect class="ground" width="{width}" height="{height}" rx="8"/>"#),
        text("text head", 20.0, 34.0, "start", title),
    ];
    all.extend(lines);
    all.push("</svg>\n".to_owned());
    all.join("\n")
}

/// A text, with that end of it at that place (`start`, `middle`, `end`).
pub(crate) fn text(class: &str, x: f64, y: f64, anchor: &str, text: &str) -> String {
    format!(r#"  <text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#)
}

/// A straight line.
pub(crate) fn line(class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) -> String {
    format!(r#"  <line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#)
}

/// A rectangle.
pub(crate) fn rect(class: &str, x: f64, y: f64, width: f64, height: f64) -> String {
    format!(r#"  <rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"/>"#)
}
