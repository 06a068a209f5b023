package androidx.activity.result

import androidx.activity.result.contract.ActivityResultContracts

fun PickVisualMediaRequest(
    mediaType: ActivityResultContracts.PickVisualMedia.VisualMediaType,
): PickVisualMediaRequest = TODO()

class PickVisualMediaRequest internal constructor()
