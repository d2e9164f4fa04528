// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/image_catalog.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>
#include <tuple>

#include "control-plane/api/records.h"

namespace hearth::control {

using hearth::v1::Image;
using hearth::v1::ImageDigests;
using hearth::v1::OutdatedUse;

namespace {

constexpr char kKernel[] = "images/kernel";
constexpr char kAgent[] = "images/agent";

Image Describe(const std::string& name, Image::Kind kind, const ImageFile& file) {
  Image image;
  image.set_name(name);
  image.set_kind(kind);
  image.set_digest(file.digest);
  std::error_code error;
  const auto size = std::filesystem::file_size(file.path, error);
  if (!error) image.set_size_bytes(static_cast<int64_t>(size));
  return image;
}

// What of `made` is not what it is `now`.
void AddOutdated(const std::string& resource, const std::string& version, const ImageDigests& made,
                 const std::string& runtime, const ImageSet& now, std::vector<OutdatedUse>* uses) {
  const auto compare = [&](const std::string& image, const std::string& had,
                           const std::string& has) {
    if (had == has || had.empty()) return;
    OutdatedUse& use = uses->emplace_back();
    use.set_resource(resource);
    use.set_version(version);
    use.set_image(image);
    use.set_digest(had);
    use.set_current_digest(has);
  };
  compare(kKernel, made.kernel(), now.kernel.digest);
  compare(kAgent, made.agent(), now.agent.digest);
  const auto entry = now.runtimes.find(runtime);
  compare(absl::StrCat("images/", runtime), made.runtime(),
          entry == now.runtimes.end() ? "" : entry->second.description.image.digest);
}

template <class Item, class Key>
std::string TakePage(std::vector<Item> items, const Page& page, const std::string& scope,
                     const Key& key, google::protobuf::RepeatedPtrField<Item>* taken) {
  std::sort(items.begin(), items.end(),
            [&](const Item& a, const Item& b) { return key(a) < key(b); });
  for (Item& item : items) {
    if (key(item) <= page.after) continue;
    if (taken->size() == page.size) {
      return MakePageToken(scope, key((*taken)[taken->size() - 1]));
    }
    *taken->Add() = std::move(item);
  }
  return "";
}

}  // namespace

std::vector<Image> ImageCatalog::Images() {
  const auto set = parts_.images->current();
  std::vector<Image> images = {Describe(kKernel, Image::KERNEL, set->kernel),
                               Describe(kAgent, Image::AGENT, set->agent)};
  for (const auto& [name, entry] : set->runtimes) {
    images.push_back(
        Describe(absl::StrCat("images/", name), Image::RUNTIME, entry.description.image));
  }
  std::map<std::string, std::pair<int, int>> users;  // Snapshots and instances of a digest.
  for (const auto& snapshot : parts_.node->ListSnapshots()) {
    ++users[snapshot.images().kernel()].first;
    ++users[snapshot.images().agent()].first;
    ++users[snapshot.images().runtime()].first;
  }
  for (const auto& instance : parts_.node->ListInstances()) {
    ++users[instance.images().kernel()].second;
    ++users[instance.images().agent()].second;
    ++users[instance.images().runtime()].second;
  }
  for (Image& image : images) {
    image.set_snapshots(users[image.digest()].first);
    image.set_instances(users[image.digest()].second);
  }
  return images;
}

absl::StatusOr<hearth::v1::ListImagesResponse> ImageCatalog::List(
    const hearth::v1::ListImagesRequest& request) {
  ASSIGN_OR_RETURN(const Page page, ParsePage(request.page_size(), request.page_token(), "images"));
  hearth::v1::ListImagesResponse response;
  response.set_next_page_token(TakePage(
      Images(), page, "images", [](const Image& image) { return image.name(); },
      response.mutable_images()));
  return response;
}

absl::StatusOr<hearth::v1::ListOutdatedResponse> ImageCatalog::ListOutdated(
    const hearth::v1::ListOutdatedRequest& request) {
  ASSIGN_OR_RETURN(const Page page,
                   ParsePage(request.page_size(), request.page_token(), "outdated"));
  const auto snapshots = parts_.node->ListSnapshots();
  const auto instances = parts_.node->ListInstances();
  const auto set = parts_.images->current();
  std::map<std::string, std::string> runtimes;  // Of versions.
  RETURN_IF_ERROR(parts_.metadata->Read([&](MetadataTransaction& t) -> absl::Status {
    const auto look_up = [&](const std::string& version) -> absl::Status {
      if (runtimes.count(version) != 0) return absl::OkStatus();
      const auto known = Load<hearth::v1::Version>(t, Kind::kVersion, version);
      // Deleted meanwhile: what is of it is going.
      if (absl::IsNotFound(known.status())) return absl::OkStatus();
      RETURN_IF_ERROR(known.status());
      runtimes[version] = known->spec().runtime();
      return absl::OkStatus();
    };
    for (const auto& snapshot : snapshots) RETURN_IF_ERROR(look_up(snapshot.version()));
    for (const auto& instance : instances) RETURN_IF_ERROR(look_up(instance.version()));
    return absl::OkStatus();
  }));
  std::vector<OutdatedUse> uses;
  for (const auto& snapshot : snapshots) {
    if (snapshot.state() == hearth::v1::Snapshot::BUILDING) continue;
    const auto runtime = runtimes.find(snapshot.version());
    if (runtime == runtimes.end()) continue;
    AddOutdated(snapshot.name(), snapshot.version(), snapshot.images(), runtime->second, *set,
                &uses);
  }
  for (const auto& instance : instances) {
    const auto runtime = runtimes.find(instance.version());
    if (runtime == runtimes.end()) continue;
    AddOutdated(instance.name(), instance.version(), instance.images(), runtime->second, *set,
                &uses);
  }
  hearth::v1::ListOutdatedResponse response;
  response.set_next_page_token(TakePage(
      std::move(uses), page, "outdated",
      [](const OutdatedUse& use) { return absl::StrCat(use.resource(), " ", use.image()); },
      response.mutable_uses()));
  return response;
}

absl::StatusOr<hearth::v1::ReloadImagesResponse> ImageCatalog::Reload(
    const hearth::v1::ReloadImagesRequest& request) {
  hearth::v1::ReloadImagesResponse response;
  RETURN_IF_ERROR(replays_.Once("ReloadImages", request.request_id(), request, &response,
                                [&] { return ReloadNow(&response); }));
  return response;
}

absl::Status ImageCatalog::ReloadNow(hearth::v1::ReloadImagesResponse* response) {
  absl::MutexLock lock(&reloading_);
  const auto changed = parts_.images->Reload();
  if (!changed.ok()) return WithReason(changed.status(), "IMAGES_NOT_USABLE");
  if (*changed) {
    spdlog::info("the images have changed; what was made from older ones is replaced");
    // From here on new machines are made from the new ones; snapshots of the old ones go on
    // serving.
    parts_.router->InvalidateAll();
    RETURN_IF_ERROR(parts_.snapshots->RefreshAll());
  }
  response->set_changed(*changed);
  for (Image& image : Images()) *response->add_images() = std::move(image);
  return absl::OkStatus();
}

}  // namespace hearth::control
