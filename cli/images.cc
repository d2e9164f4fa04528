// SPDX-License-Identifier: Apache-2.0
// `hearth images`: what new machines are made from, and what still runs on older ones.
#include "cli/commands.h"
#include "cli/format.h"
#include "cli/json.h"
#include "cli/names.h"
#include "cli/pages.h"

namespace hearth::cli {
namespace {

constexpr int kAll = 1'000'000;
constexpr size_t kShownDigits = 12;

// "sha256:" and the first digits: enough to tell images apart on a screen.
std::string Short(const std::string& digest) {
  const size_t colon = digest.find(':');
  if (digest.empty()) return "-";
  return digest.substr(colon == std::string::npos ? 0 : colon + 1, kShownDigits);
}

void PrintImages(const Session& session, const std::vector<hearth::v1::Image>& items) {
  Table table({"IMAGE", "KIND", "DIGEST", "SIZE", "SNAPSHOTS", "INSTANCES"});
  for (const auto& item : items) {
    table.Add({LastSegment(item.name()), hearth::v1::Image::Kind_Name(item.kind()),
               Short(item.digest()), FormatBytes(item.size_bytes()),
               std::to_string(item.snapshots()), std::to_string(item.instances())});
  }
  PrintTable(session, table, "hearthd's image store is empty");
}

}  // namespace

int ListImages(Session& session) {
  const auto items =
      AllPages(session, "list images", kAll, *session.client().images,
               &hearth::v1::ImageService::Stub::ListImages, hearth::v1::ListImagesRequest(),
               &hearth::v1::ListImagesResponse::images);
  if (session.options.json) {
    PrintJson(session, "images", items);
  } else {
    PrintImages(session, items);
  }
  return kExitOk;
}

int ListOutdated(Session& session) {
  const auto items =
      AllPages(session, "list what is outdated", kAll, *session.client().images,
               &hearth::v1::ImageService::Stub::ListOutdated, hearth::v1::ListOutdatedRequest(),
               &hearth::v1::ListOutdatedResponse::uses);
  if (session.options.json) {
    PrintJson(session, "uses", items);
    return kExitOk;
  }
  Table table({"FUNCTION", "VERSION", "WHAT", "ID", "IMAGE", "HAS", "SHOULD HAVE"});
  for (const auto& item : items) {
    const bool snapshot = !SegmentOf(item.resource(), "snapshots").empty();
    table.Add({SegmentOf(item.resource(), "functions"), LastSegment(item.version()),
               snapshot ? "snapshot" : "instance", LastSegment(item.resource()),
               LastSegment(item.image()), Short(item.digest()), Short(item.current_digest())});
  }
  PrintTable(session, table, "Nothing runs on old images");
  return kExitOk;
}

int ReloadImages(Session& session) {
  Client& client = session.client();
  hearth::v1::ReloadImagesResponse response;
  client.Call("reload the images", [&](grpc::ClientContext* context) {
    return client.images->ReloadImages(context, hearth::v1::ReloadImagesRequest(), &response);
  });
  if (session.options.json) {
    session.terminal.out << JsonText(ToJson(response));
    return kExitOk;
  }
  PrintImages(session, {response.images().begin(), response.images().end()});
  if (!session.options.quiet) {
    session.terminal.err << (response.changed()
                                 ? "They have changed: `hearth images outdated` shows what has "
                                   "yet to follow.\n"
                                 : "They are what they were.\n");
  }
  return kExitOk;
}

}  // namespace hearth::cli
