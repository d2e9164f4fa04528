// SPDX-License-Identifier: Apache-2.0
// `hearth doctor --baseline`: which hosts share snapshots, and what processor all have in common.
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/doctor/cpu.h"
#include "cli/failure.h"
#include "cli/format.h"
#include "cli/json.h"
#include "control-plane/snapshots/sharing.h"

namespace hearth::cli {
namespace {

struct ComparedHost {
  std::string file;
  snapshot::v1::Host host;
  nlohmann::json libvirt;
};

CliError BadHostFile(const std::string& file, const std::string& why) {
  return UsageError(file + ": " + why,
                    {"Make it on that host: hearth doctor --json > " + file + "."});
}

ComparedHost ReadHostFile(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  // One byte more than is allowed tells that there are more.
  std::string text(kMaxHostFileBytes + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (stream.bad() || stream.gcount() == 0) throw BadHostFile(file, "cannot be read, or is empty");
  text.resize(static_cast<size_t>(stream.gcount()));
  if (text.size() > kMaxHostFileBytes) {
    throw BadHostFile(file, absl::StrCat("is over ", kMaxHostFileBytes, " bytes"));
  }
  const auto document = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!document.is_object() || !document.contains("cpu") || !document["cpu"].is_object()) {
    throw BadHostFile(file, "is no JSON with a member `cpu`");
  }
  const nlohmann::json& cpu = document["cpu"];
  const auto host = HostOf(cpu);
  if (!host.ok()) {
    throw BadHostFile(file,
                      absl::StrCat("cpu.host is no host's description: ", host.status().message()));
  }
  ComparedHost compared{file, *host, {{"missing", "cpu.libvirt is not there"}}};
  if (cpu.contains("libvirt") && cpu["libvirt"].is_object()) compared.libvirt = cpu["libvirt"];
  return compared;
}

nlohmann::json AskBaseline(const std::vector<ComparedHost>& hosts, const DoctorOptions& options) {
  std::vector<std::string> arguments = {"baseline", "--json", "--"};
  for (const ComparedHost& host : hosts) {
    if (host.libvirt.contains("missing")) {
      const nlohmann::json& why = host.libvirt["missing"];
      return {{"missing", host.file + ": " + (why.is_string() ? why.get<std::string>() : "?")}};
    }
    arguments.push_back(host.file);
  }
  return AskLibvirt(options.libvirt, std::move(arguments));
}

std::vector<std::string> FilesOf(const std::vector<size_t>& group,
                                 const std::vector<ComparedHost>& hosts) {
  std::vector<std::string> files;
  files.reserve(group.size());
  for (const size_t host : group) files.push_back(hosts[host].file);
  return files;
}

nlohmann::json SharingJson(const control::Sharing& sharing, const std::vector<ComparedHost>& hosts,
                           const nlohmann::json& baseline) {
  nlohmann::json groups = nlohmann::json::array();
  for (const auto& group : sharing.groups) {
    groups.push_back(
        {{"files", FilesOf(group, hosts)}, {"host", ToJson(hosts[group.front()].host)}});
  }
  nlohmann::json relations = nlohmann::json::array();
  for (const auto& relation : sharing.relations) {
    relations.push_back({{"madeInGroup", relation.made_in + 1},
                         {"runsInGroup", relation.here + 1},
                         {"runs", relation.differences.empty()},
                         {"differences", relation.differences}});
  }
  return {{"groups", groups}, {"relations", relations}, {"baseline", baseline}};
}

std::string SharingText(const control::Sharing& sharing, const std::vector<ComparedHost>& hosts,
                        const nlohmann::json& baseline) {
  std::string text = sharing.groups.size() == 1
                         ? "All of them run each other's snapshots.\n"
                         : absl::StrCat(sharing.groups.size(),
                                        " groups; within one, each host runs the snapshots of "
                                        "every other.\n");
  for (size_t i = 0; i < sharing.groups.size(); ++i) {
    const auto& group = sharing.groups[i];
    absl::StrAppend(&text, "group ", i + 1, "  ", absl::StrJoin(FilesOf(group, hosts), " "),
                    "\n         ", ProcessorText(hosts[group.front()].host), "\n");
  }
  for (const auto& relation : sharing.relations) {
    // The largest group is what others are held against; all pairs are many.
    if (relation.differences.empty()) {
      absl::StrAppend(&text, "snapshots of group ", relation.made_in + 1, " run in group ",
                      relation.here + 1, ", too\n");
    } else if (relation.made_in == 0) {
      absl::StrAppend(&text, "snapshots of group 1 do not run in group ", relation.here + 1, ": ",
                      absl::StrJoin(relation.differences, "; "), "\n");
    }
  }
  absl::StrAppend(&text, baseline.contains("missing") ? "no processor in common: " : "in common: ",
                  ModelText(baseline), "\n");
  return SafeText(text);
}

}  // namespace

int CompareHosts(Session& session, const DoctorOptions& options) {
  if (options.baseline.size() > kMaxHostFiles) {
    throw UsageError(absl::StrCat("--baseline: ", options.baseline.size(), " files; at most ",
                                  kMaxHostFiles, " are compared"));
  }
  std::vector<ComparedHost> hosts;
  std::vector<snapshot::v1::Host> described;
  for (const std::string& file : options.baseline) {
    hosts.push_back(ReadHostFile(file));
    described.push_back(hosts.back().host);
  }
  const control::Sharing sharing = control::FindSharing(described);
  const nlohmann::json baseline = AskBaseline(hosts, options);
  session.terminal.out << (session.options.json ? JsonText(SharingJson(sharing, hosts, baseline))
                                                : SharingText(sharing, hosts, baseline));
  return kExitOk;
}

}  // namespace hearth::cli
