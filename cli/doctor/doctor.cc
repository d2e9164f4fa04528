// SPDX-License-Identifier: Apache-2.0
// `hearth doctor`: shows the diagnosis.
#include "absl/strings/str_cat.h"
#include "cli/doctor/cpu.h"
#include "cli/doctor/host.h"
#include "cli/format.h"
#include "cli/json.h"

namespace hearth::cli {
namespace {

const char* StateName(Check::State state) {
  switch (state) {
    case Check::State::kGood:
      return "good";
    case Check::State::kNote:
      return "note";
    case Check::State::kBad:
      break;
  }
  return "bad";
}

constexpr char kChange[] =
    "hearthd --backend=kvm or --backend=libvirt; `hearth doctor --backend kvm` judges that one";

nlohmann::json DiagnosisJson(const Diagnosis& diagnosis) {
  nlohmann::json checks = nlohmann::json::array();
  for (const Check& check : diagnosis.checks) {
    checks.push_back({{"name", check.name},
                      {"state", StateName(check.state)},
                      {"text", check.text},
                      {"advice", check.advice}});
  }
  const Choice& choice = diagnosis.choice;
  const bool chosen = choice.backend != Backend::kNone;
  const std::string accel = AccelName(choice);
  return {{"choice", BackendName(choice.backend)},
          {"accel", accel},
          {"reason", choice.reason},
          {"cost", choice.cost},
          {"flag", chosen ? absl::StrCat("--backend=", BackendName(choice.backend)) : ""},
          {"helperFlag", accel.empty() ? "" : "--accel=" + accel},
          {"start", StartCommands(choice)},
          {"change", kChange},
          {"testbedOnly", choice.testbed},
          {"summary", Summary(choice)},
          {"checks", checks},
          {"cpu", diagnosis.cpu},
          {"kvmProbe", diagnosis.probe}};
}

void PrintDiagnosis(const Diagnosis& diagnosis, std::ostream& out) {
  const auto line = [&out](const char* label, const std::string& text) {
    std::string padded = label;
    padded.resize(9, ' ');
    out << padded << SafeText(text) << "\n";
  };
  out << "measured\n";
  for (const Check& check : diagnosis.checks) {
    std::string state = StateName(check.state);
    std::string name = check.name;
    state.resize(4, ' ');
    name.resize(8, ' ');
    out << "  " << state << "  " << name << " " << SafeText(check.text) << "\n";
    if (!check.advice.empty() && check.state != Check::State::kGood) {
      out << "        -->      " << SafeText(check.advice) << "\n";
    }
  }
  line("choice", Summary(diagnosis.choice));
  line("why", diagnosis.choice.reason);
  const char* label = "start";
  for (const std::string& command : StartCommands(diagnosis.choice)) {
    line(label, command);
    label = "";
  }
  line("change", kChange);
}

}  // namespace

int Doctor(Session& session, const DoctorOptions& options) {
  if (!options.baseline.empty()) return CompareHosts(session, options);
  ProgressLine progress(session.terminal);
  const Diagnosis diagnosis = Diagnose(session.options, options, [&](const std::string& what) {
    if (!session.options.quiet) progress.Show("doctor   " + what);
  });
  progress.Clear();
  if (session.options.json) {
    session.terminal.out << JsonText(DiagnosisJson(diagnosis));
  } else {
    PrintDiagnosis(diagnosis, session.terminal.out);
  }
  if (diagnosis.choice.backend != Backend::kNone) return kExitOk;
  return diagnosis.choice.testbed ? kExitTestbedOnly : kExitNoWay;
}

}  // namespace hearth::cli
