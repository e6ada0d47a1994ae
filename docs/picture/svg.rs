//! What pictures in SVG are made of: readable by themselves, on light and on dark ground, with no font but the reader's own.
//! The load test draws with it, too.

/// What all pictures have. Colours and contrast are those of a page on GitHub, light and dark.
const STYLE: &str = "
    .ground { fill: #ffffff; } .text { fill: #1f2328; } .faint { fill: #59636e; }
    .edge { stroke: #d1d9e0; } .axis { stroke: #818b98; }
    text { font-family: system-ui, sans-serif; font-size: 14px; }
    .head { font-size: 19px; font-weight: 600; } .name { font-weight: 600; font-size: 15px; }";

/// The same on dark ground.
const STYLE_DARK: &str = "
      .ground { fill: #0d1117; } .text { fill: #f0f6fc; } .faint { fill: #9198a1; }
      .edge { stroke: #3d444d; } .axis { stroke: #656c76; }";

/// A picture, but for what is on it.
pub(crate) struct Picture<'a> {
    /// In units of which a letter is 14 high.
    pub width: f64,
    /// The same.
    pub height: f64,
    /// Its heading, drawn at the top, at 34.
    pub title: &'a str,
    /// What it shows, for those who do not see it.
    pub description: &'a str,
    /// CSS beside what all pictures have: `text`, `faint`, `edge`, `axis`, `head` and `name`.
    pub style: &'a str,
    /// The same for dark ground.
    pub style_dark: &'a str,
}

impl Picture<'_> {
    /// The whole file, with these elements on it.
    pub(crate) fn of(&self, elements: &[String]) -> String {
        let Self { width, height, title, description, style, style_dark } = *self;
        let elements = elements.join("\n");
        let (heading, title, description) =
            (text("text head", 20.0, 34.0, "start", title), plain(title), plain(description));
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="title desc">
  <title id="title">{title}</title>
  <desc id="desc">{description}</desc>
  <style>{STYLE}{style}
    @media (prefers-color-scheme: dark) {{{STYLE_DARK}{style_dark}
    }}
  </style>
  <rect class="ground" width="{width}" height="{height}" rx="8"/>
{heading}
{elements}
</svg>
"#
        )
    }
}

/// Text that stands at a point: `anchor` is `start`, `middle` or `end`.
pub(crate) fn text(class: &str, x: f64, y: f64, anchor: &str, text: &str) -> String {
    let text = plain(text);
    format!(r#"  <text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#)
}

/// A straight line.
pub(crate) fn line(class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) -> String {
    format!(r#"  <line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#)
}

/// A filled rectangle, from its upper left corner.
pub(crate) fn rect(class: &str, x: f64, y: f64, width: f64, height: f64) -> String {
    format!(r#"  <rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"/>"#)
}

/// As XML says it.
fn plain(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
