//! How the page looks: names that are markup, small windows, contrast, plots, and many peers.

use system_tests::{Browser, Cluster, Result, Scene, Topology, check, check_equal, scenario, shell};

use crate::{behaved, in_conflict, shows, visit};

/// Would run, were it taken for markup.
const HOSTILE: &str = "<img src=x onerror=\"window.hit=1\">";

#[test]
fn what_looks_like_markup_is_text() {
    scenario(|scene| {
        let value = HOSTILE.replace('\'', "''");
        let writes = [
            &format!("UPDATE stock SET note = '{value}' WHERE sku = 'A-1'"),
            &format!("UPDATE stock SET note = '<script>window.hit = 2</script>' || '{value}' WHERE sku = 'A-1'"),
        ];
        let (mut cluster, index) = in_conflict(scene, &[], writes.map(String::as_str))?;
        let other = 1 - index;
        cluster.nodes[other].stop()?;
        cluster.nodes[other].rename("<img src=x onerror=hit()>");
        for file in cluster.files() {
            shell(file, &format!("CREATE TABLE \"{}\" (text TEXT)", HOSTILE.replace('"', "\"\"")))?;
        }
        cluster.nodes[other].start()?;
        let node = &cluster.nodes[index];
        let browser = visit(scene, node)?;
        shows(scene, &browser, "Restore the discarded side")?;
        for text in [&HOSTILE.replace('"', "\\\""), "<img src=x onerror=hit()>", "<script>window.hit = 2</script>"] {
            shows(scene, &browser, text)?;
        }
        browser.run("document.querySelectorAll('details').forEach((details) => { details.open = true })")?;
        shows(scene, &browser, HOSTILE)?;
        browser.picture("hostile")?;
        browser.click("Restore the discarded side")?;
        let found = "return [window.hit ?? 0, document.querySelectorAll('img, script:not([type=module], head *), b[onmouseover]').length].join()";
        check_equal!(browser.run(found)?, "0,0");
        behaved(&browser, node)
    });
}

#[test]
fn it_fits_small_windows_and_can_be_read_in_light_and_dark() {
    scenario(|scene| {
        let writes = ["UPDATE stock SET note = 'ours' WHERE sku = 'A-1'", "DELETE FROM stock WHERE sku = 'A-1'"];
        let (cluster, index) = in_conflict(scene, &[], writes)?;
        let node = &cluster.nodes[index];
        let browser = visit(scene, node)?;
        shows(scene, &browser, "Restore the discarded side")?;
        check_equal!(shifted(&browser)?, false, "the page moves under its reader while it is filled");
        browser.run("document.querySelectorAll('details').forEach((details) => { details.open = true })")?;
        for scheme in ["light", "dark"] {
            // Windows from large to that of a small telephone, which is also 1280 at four times the size.
            for width in [1280, 640, 320] {
                browser.prefer(width, 2400, scheme)?;
                scene.eventually("the page fits", || fits(&browser, width))?;
                browser.picture(&format!("{scheme}-{width}"))?;
            }
            faint(&browser)?;
            browser.click("Restore the discarded side")?;
            faint(&browser)?;
            browser.press("\u{e00c}")?;
        }
        browser.click("Theme: auto")?;
        check_equal!(browser.run("return getComputedStyle(document.documentElement).colorScheme")?, "light");
        faint(&browser)?;
        behaved(&browser, node)
    });
}

fn fits(browser: &Browser, width: u32) -> Result {
    let wide = browser.run("return document.documentElement.scrollWidth")?;
    check!(wide.as_u64() <= Some(u64::from(width)), "{wide} of {width}");
    Ok(())
}

/// Whether what was drawn first has moved by more than what a person would notice.
fn shifted(browser: &Browser) -> Result<bool> {
    let moved = browser.run(
        "return new Promise((tell) => new PerformanceObserver((list) => tell(list.getEntries().reduce((sum, { value }) => sum + value, 0)))
           .observe({ type: 'layout-shift', buffered: true }) ?? setTimeout(() => tell(0), 300))",
    )?;
    Ok(moved.as_f64().is_none_or(|moved| moved > 0.05))
}

/// Checks that all text stands out from its ground by 4.5 to 1.
#[track_caller]
fn faint(browser: &Browser) -> Result {
    let faint = browser.run(
        "const parts = (color) => color.match(/[\\d.]+/g).map(Number);
         const light = (color) => parts(color).slice(0, 3).map((part) => part / 255)
           .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
           .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
         const ground = (node) => {
           const color = node ? getComputedStyle(node).backgroundColor : getComputedStyle(document.documentElement).backgroundColor;
           return node && (parts(color)[3] ?? 1) < 1 ? ground(node.parentElement) : color;
         };
         return [...document.querySelectorAll('body *')].flatMap((node) => {
           const texts = [...node.childNodes].filter((child) => child.nodeType === 3 && child.data.trim());
           if (!texts.length || !node.checkVisibility() || node.closest('.unseen, .skip, noscript, option')) return [];
           const style = getComputedStyle(node);
           const [text, behind] = [node instanceof SVGElement ? style.fill : style.color, ground(node)].map(light);
           const ratio = (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05);
           return ratio < 4.5 ? [`${texts[0].data.trim()} (${ratio.toFixed(2)})`] : [];
         })",
    )?;
    check_equal!(faint, serde_json::json!([]));
    Ok(())
}

#[test]
fn many_peers_are_drawn_and_what_passes_is_plotted() {
    scenario(|scene| {
        let mut cluster = star(scene, 7)?;
        let browser = visit(scene, &cluster.nodes[0])?;
        for node in &cluster.nodes[1..] {
            shows(scene, &browser, node.name())?;
        }
        scene.eventually("all are equal", || {
            check_equal!(browser.run("return document.querySelectorAll('.peer.good').length")?, 6);
            check_equal!(browser.run("return document.querySelectorAll('.link.good').length")?, 6);
            browser.shows("6 peers are equal")
        })?;
        let overlaps = browser.run(
            "const boxes = [...document.querySelectorAll('.peer, .hub')].map((node) => node.getBoundingClientRect());
             return boxes.some((one, index) => boxes.slice(index + 1).some((other) =>
               one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom))",
        )?;
        check_equal!(overlaps, false);
        let mut number = 0;
        scene.eventually("the plots show what passes", || {
            number += 1;
            shell(cluster.file(1), &format!("INSERT INTO stock VALUES ('N-{number}', {number}, 'new')"))?;
            let lines = browser.run(
                "return ['traffic', 'changes', 'lag', 'behind'].map((id) => {
                   const points = [...document.querySelectorAll(`#plot-${id} polyline`)].map((line) => line.getAttribute('points').split(' '));
                   const heights = new Set(points.flat().map((point) => point.split(',')[1]));
                   return [Math.max(0, ...points.map((line) => line.length)), heights.size, document.querySelectorAll(`#plot-${id} text`).length];
                 })",
            )?;
            for (plot, moves) in [(0, true), (1, true), (2, false), (3, false)] {
                let [points, heights, labels] = [0, 1, 2].map(|part| lines[plot][part].as_u64());
                check!(points >= Some(3) && labels >= Some(6), "{lines}");
                check!(!moves || heights >= Some(2), "{lines}");
            }
            Ok(())
        })?;
        browser.picture("peers")?;
        // A peer that dialed this node is only missing in the daemon's answer.
        let gone = cluster.nodes.pop();
        drop(gone);
        shows(scene, &browser, "gone for")?;
        shows(scene, &browser, "5 of 6")?;
        behaved(&browser, &cluster.nodes[0])
    });
}

fn star(scene: &Scene, count: usize) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "shop", count, Topology::Star)?;
    cluster.create("CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER, note TEXT)")?;
    cluster.start()?;
    cluster.settled()?;
    Ok(cluster)
}
