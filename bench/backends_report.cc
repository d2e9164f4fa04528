// SPDX-License-Identifier: Apache-2.0
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/backends.h"

namespace hearth::bench {
namespace {

constexpr struct {
  const char* key;
  const char* label;
  bool control::BackendCapabilities::*flag;
} kCapabilities[] = {
    {"clones", "clones of one snapshot", &control::BackendCapabilities::clones},
    {"survivesSave", "survives its saving", &control::BackendCapabilities::survives_save},
    {"hotRestore", "restored into one that waits", &control::BackendCapabilities::hot_restore},
    {"memorySharing", "clones share memory", &control::BackendCapabilities::memory_sharing},
    {"vsock", "vsock", &control::BackendCapabilities::vsock}};

std::string Cell(std::optional<double> value) {
  return value.has_value() ? absl::StrFormat(" %10.2f", *value) : absl::StrFormat(" %10s", "-");
}

std::string CapabilityLines(const BackendsOptions& options,
                            const std::vector<BackendResults>& results) {
  std::string text = absl::StrFormat("%-30s", "capability");
  for (const std::string& backend : options.backends)
    absl::StrAppendFormat(&text, " %10s", backend);
  text += "\n";
  for (const auto& capability : kCapabilities) {
    absl::StrAppendFormat(&text, "%-30s", capability.label);
    for (const BackendResults& of_backend : results) {
      absl::StrAppendFormat(&text, " %10s",
                            of_backend.capabilities.*capability.flag ? "yes" : "no");
    }
    text += "\n";
  }
  return text;
}

std::string RowLines(const BackendsRow& row) {
  std::string text = absl::StrFormat("%-30s", NameOf(row.mode));
  for (const auto& reply : row.reply) text += Cell(reply);
  for (size_t i = 1; i < row.reply.size(); ++i) text += Cell(row.Ratio(i));
  text += "\n";
  absl::StrAppendFormat(&text, "%-30s", "  CPU of the machine's process");
  for (const auto& cpu : row.cpu) text += Cell(cpu);
  absl::StrAppendFormat(&text, "\n%-30s", "  starts, failed ones");
  for (size_t i = 0; i < row.starts.size(); ++i) {
    absl::StrAppendFormat(&text, " %10s",
                          row.possible[i] ? absl::StrCat(row.starts[i], ", ", row.failures[i])
                                          : std::string("not capable"));
  }
  return text + "\n";
}

std::string FunctionLines(const BackendsOptions& options, const BenchedFunction& function,
                          const std::vector<BackendsRow>& rows) {
  std::string text = absl::StrFormat(
      "\n%-30s", absl::StrCat(function.name, ", ", function.call.payload.size(), " bytes"));
  for (const std::string& backend : options.backends)
    absl::StrAppendFormat(&text, " %10s", backend);
  for (size_t i = 1; i < options.backends.size(); ++i) {
    absl::StrAppendFormat(&text, " %s:%s", options.backends[i], options.backends[0]);
  }
  text += "\n";
  for (const BackendsRow& row : rows) {
    if (row.function == function.name) text += RowLines(row);
  }
  return text;
}

std::string FailureText(const BackendsOptions& options,
                        const std::vector<BackendResults>& results) {
  std::string text;
  for (size_t i = 0; i < results.size(); ++i) {
    for (const auto& [function, modes] : results[i].starts.functions) {
      for (const auto& [mode, of_mode] : modes) {
        if (of_mode.failures.empty()) continue;
        absl::StrAppend(&text, "\n", options.backends[i], ", ", function, ", ", NameOf(mode), ":\n",
                        FailureLines(of_mode.failures));
      }
    }
  }
  return text;
}

}  // namespace

std::string BackendsText(const BackendsOptions& options,
                         const std::vector<BackendResults>& results) {
  const ClockKind& clock = results.front().starts.clock;
  std::string text = absl::StrFormat(
      "clock    %s; all times in %s\nload     one at a time; from sending to the last byte, "
      "p50\n\n",
      clock.counts_instructions ? "counts instructions" : "real time", clock.unit());
  absl::StrAppend(&text, CapabilityLines(options, results));
  const std::vector<BackendsRow> rows = RowsOf(options, results);
  for (const BenchedFunction& function : options.starts.functions) {
    absl::StrAppend(&text, FunctionLines(options, function, rows));
  }
  return text + FailureText(options, results);
}

nlohmann::json BackendsJson(const BackendsOptions& options,
                            const std::vector<BackendResults>& results) {
  nlohmann::json json = {{"benchmark", "backends"}, {"table", nlohmann::json::array()}};
  const auto number = [](const std::optional<double>& value) {
    return value.has_value() ? nlohmann::json(*value) : nlohmann::json();
  };
  for (size_t i = 0; i < results.size(); ++i) {
    nlohmann::json& of_backend = json["backends"][options.backends[i]];
    of_backend = ColdStartJson(options.starts, results[i].starts);
    for (const auto& capability : kCapabilities) {
      of_backend["capabilities"][capability.key] = results[i].capabilities.*capability.flag;
    }
  }
  for (const BackendsRow& row : RowsOf(options, results)) {
    nlohmann::json line = {{"function", row.function}, {"start", NameOf(row.mode)}};
    for (size_t i = 0; i < row.reply.size(); ++i) {
      line["backends"][options.backends[i]] = {
          {"possible", bool{row.possible[i]}}, {"replyP50", number(row.reply[i])},
          {"cpuP50", number(row.cpu[i])},      {"starts", row.starts[i]},
          {"failures", row.failures[i]},       {"ratio", number(row.Ratio(i))}};
    }
    json["table"].push_back(std::move(line));
  }
  return json;
}

}  // namespace hearth::bench
