// SPDX-License-Identifier: Apache-2.0
#include "cli/doctor/cpu.h"

#include <google/protobuf/util/json_util.h>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/doctor/programs.h"
#include "cli/json.h"
#include "control-plane/snapshots/host.h"

namespace hearth::cli {

nlohmann::json AskLibvirt(const std::string& program, std::vector<std::string> arguments) {
  const std::string path = program.empty() ? FindProgram("hearth-libvirt") : program;
  if (path.empty()) return {{"missing", "hearth-libvirt is not installed"}};
  arguments.insert(arguments.begin(), path);
  const absl::StatusOr<ProgramResult> ran = RunProgram(arguments, /*errors=*/true);
  if (!ran.ok()) return {{"missing", std::string(ran.status().message())}};
  nlohmann::json answer = nlohmann::json::parse(ran->output, nullptr, false);
  if (ran->wait_status == 0 && answer.is_object()) return answer;
  const std::string said(absl::StripAsciiWhitespace(ran->output));
  return {{"missing", said.empty() ? path + " ended without a word" : said}};
}

nlohmann::json DescribeCpu(const std::string& libvirt_program) {
  const auto host = control::HostDescription(HEARTH_VERSION);
  nlohmann::json described = {{"missing", std::string(host.status().message())}};
  if (host.ok()) described = ToJson(*host);
  return {{"host", described}, {"libvirt", AskLibvirt(libvirt_program, {"cpu", "--json"})}};
}

absl::StatusOr<snapshot::v1::Host> HostOf(const nlohmann::json& cpu) {
  snapshot::v1::Host host;
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;  // A later version's.
  const auto status = google::protobuf::util::JsonStringToMessage(
      cpu.is_object() && cpu.contains("host") ? JsonText(cpu["host"]) : "{}", &host, options);
  if (!status.ok()) return absl::InvalidArgumentError(std::string(status.message()));
  if (host.cpu_vendor().empty()) return absl::InvalidArgumentError("it names no CPU vendor");
  return host;
}

std::string ProcessorText(const snapshot::v1::Host& host) {
  return absl::StrCat(host.cpu_model(), " (", host.cpu_vendor(), ", family ", host.cpu_family(),
                      " model ", host.cpu_model_number(), " stepping ", host.cpu_stepping(),
                      ", microcode ", host.microcode(), ", ", host.cpu_features_size(),
                      " features)");
}

std::string ModelText(const nlohmann::json& libvirt) {
  if (libvirt.contains("missing")) return libvirt.value("missing", "");
  std::string text = libvirt.value("model", "");
  for (const char* kind : {"more", "fewer"}) {
    const auto features = libvirt.value(kind, std::vector<std::string>());
    if (!features.empty()) absl::StrAppend(&text, ", ", kind, ": ", absl::StrJoin(features, " "));
  }
  return text;
}

Check CpuCheck(const nlohmann::json& cpu) {
  const auto host = HostOf(cpu);
  if (!host.ok()) {
    return {"CPU", Check::State::kNote, "not known: " + cpu["host"].value("missing", ""), ""};
  }
  const nlohmann::json& libvirt = cpu["libvirt"];
  const std::string model =
      libvirt.contains("missing")
          ? "libvirt's model is not known: " + libvirt.value("missing", "")
          : absl::StrCat("libvirt's model ", libvirt.value("model", ""), " and ",
                         libvirt.value("more", nlohmann::json::array()).size(), " features more");
  return {"CPU", Check::State::kGood, absl::StrCat(ProcessorText(*host), "; ", model), ""};
}

}  // namespace hearth::cli
