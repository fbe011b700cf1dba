// Colours of points: named ones from the page's palette, hues for many kinds, a ramp for numbers; light and dark.

const dark = matchMedia("(prefers-color-scheme: dark)");
export const isDark = () => dark.matches;
export const onScheme = (work) => dark.addEventListener("change", work);

const RAMPS = {
  light: ["#cfc9bb", "#e6b565", "#d9633f", "#8e2a6b", "#2b1657"],
  dark: ["#3f3b57", "#7d4495", "#d2586c", "#f3a656", "#fff0a8"],
};

function hex(text) {
  const value = parseInt(text.trim().slice(1), 16);
  return [value >> 16 & 255, value >> 8 & 255, value & 255];
}
export function named(variable) {
  return hex(getComputedStyle(document.documentElement).getPropertyValue(variable));
}
export function css([red, green, blue]) { return `rgb(${red} ${green} ${blue})`; }

export function ramp(share) {
  const stops = RAMPS[isDark() ? "dark" : "light"].map(hex);
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2), part = at - low;
  return stops[low].map((value, axis) => Math.round(value + part * (stops[low + 1][axis] - value)));
}
export function rampCss() { return `linear-gradient(90deg, ${RAMPS[isDark() ? "dark" : "light"].join(", ")})`; }

const SERIES = ["--s1", "--s2", "--s3", "--s4", "--s5", "--s6", "--s7"];
export function kind(place, count) {
  if (count <= SERIES.length) return named(SERIES[place % SERIES.length]);
  const hue = (place * 137.508 + 250) % 360, step = place % 3;  // neighbours in number are far apart in hue
  return oklch((isDark() ? [0.78, 0.7, 0.84] : [0.55, 0.48, 0.64])[step], [0.13, 0.16, 0.11][step], hue);
}
function oklch(light, chroma, hue) {
  const a = chroma * Math.cos(hue * Math.PI / 180), b = chroma * Math.sin(hue * Math.PI / 180);
  const l = (light + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (light - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (light - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return linear.map((value) => {
    const part = Math.min(Math.max(value, 0), 1);
    return Math.round(255 * (part <= 0.0031308 ? 12.92 * part : 1.055 * part ** (1 / 2.4) - 0.055));
  });
}
