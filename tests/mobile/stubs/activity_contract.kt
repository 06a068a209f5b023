package androidx.activity.result.contract

import android.net.Uri
import androidx.activity.result.PickVisualMediaRequest

abstract class ActivityResultContract<I, O>

class ActivityResultContracts {
    class RequestPermission : ActivityResultContract<String, Boolean>()

    class PickMultipleVisualMedia : ActivityResultContract<PickVisualMediaRequest, List<Uri>>()

    class PickVisualMedia {
        interface VisualMediaType

        object ImageOnly : VisualMediaType
    }
}
